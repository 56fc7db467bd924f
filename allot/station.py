"""Station: stands in a module's place; runs what is in it and records, or replays."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from allot.dataflow import one_tensor
from allot.ghost import Memory, ghost
from allot.options.standins import inner_attribute
from allot.provenance import tensors


@dataclass(eq=False, slots=True, kw_only=True)
class Record:
    """Output of a module: its values (None where nothing will read them) and its shape.

    rest: None for a bare tensor, else what follows it in a tuple.  copied: whether something may
    change it in place, so that it is copied.  version: how often it was changed in place before
    it was kept.  saved: kept elsewhere, so it counts there.
    """

    tensor: Tensor | None
    shape: torch.Size
    dtype: torch.dtype
    device: torch.device
    rest: tuple[Any, ...] | None
    copied: bool
    version: int = 0
    saved: bool = False

    @property
    def whole(self) -> bool:
        """Whether the values are there, as they were."""
        return self.tensor is not None and _version(self.tensor) == self.version

    def again(self) -> Any:
        """The values."""
        assert self.tensor is not None
        y = self.tensor.clone() if self.copied else self.tensor
        return y if self.rest is None else (y, *self.rest)

    def ghost(self, memory: Memory) -> Any:
        """The shape alone."""
        y = ghost(self.shape, self.dtype, memory, self.device)
        return y if self.rest is None else (y, *self.rest)


@dataclass(kw_only=True, eq=False)
class Now:
    """What all stations look at: modules that ended before `start` are replayed.

    live: those of them whose values are read.  ghosts: whether the others are replayed as
    shapes, else they are run.  left: bytes that may still be recorded.  shapes: what ops make of
    ghosts.  latest: where in `graph.order` the modules of this run have started up to now.
    strayed: whether one of them that may be replayed came out of that order or twice, or
    changed its input.
    """

    start: float = -1.0
    live: Collection[str] = frozenset()
    ghosts: bool = True
    left: int = 0
    shapes: Memory = field(default_factory=dict)
    latest: int = -1
    strayed: bool = False


class Station(nn.Module):
    """One module's place. begin, end: when it first starts and ends in `graph.order`; end is
    infinite where it is never replayed.  needed: whether any boundary reads its values."""

    is_wrapper: ClassVar[bool] = True

    def __init__(self, name: str, inner: nn.Module, *, now: Now, begin: int, end: float) -> None:
        nn.Module.__init__(self)
        self.inner = inner
        self.name, self.now, self.begin, self.end = name, now, begin, end
        self.needed = self.copied = False
        self.record: Record | None = None

    def __getattr__(self, name: str) -> Any:
        return inner_attribute(self, name)

    def put(self, inner: nn.Module) -> None:
        """Switches what runs here."""
        self._modules["inner"] = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        now, record = self.now, self.record
        now.strayed |= self.begin <= now.latest and self.end < math.inf
        now.latest = max(now.latest, self.begin)
        if self.end < now.start and record is not None:
            if self.name in now.live:
                return record.again()
            if now.ghosts:
                return record.ghost(now.shapes)
        entered = [(t, _version(t)) for t in tensors((args, kwargs))]
        y = self._modules["inner"](*args, **kwargs)  # type: ignore[misc]
        if self.end < math.inf:
            now.strayed |= any(_version(t) != version for t, version in entered)
            self._take((args, kwargs), y)
        return y

    def _take(self, given: Any, output: Any) -> None:
        """Keeps the output where it is needed, its own and within the budget."""
        self.forget()
        if not one_tensor(output):
            return
        y, rest = (output, None) if isinstance(output, Tensor) else (output[0], output[1:])
        self.record = Record(
            tensor=None, shape=y.shape, dtype=y.dtype, device=y.device, rest=rest,
            copied=self.copied,
        )  # fmt: skip
        # a stand-in may hand on its input: then a later change of one is a change of the other
        shared = self.copied and any(_same_storage(x, y) for x in tensors(given))
        if self.needed and y.nbytes <= self.now.left and not shared:
            self.now.left -= y.nbytes
            self.record.tensor = kept = y.clone() if self.copied else y
            self.record.version = _version(kept)

    def forget(self) -> None:
        """Drops the record."""
        if self.record is not None and self.record.tensor is not None and not self.record.saved:
            self.now.left += self.record.tensor.nbytes
        self.record = None


def _same_storage(x: Tensor, y: Tensor) -> bool:
    return x.untyped_storage().data_ptr() == y.untyped_storage().data_ptr()


def _version(x: Tensor) -> int:
    """How often a tensor was changed in place; always 0 in inference mode, which does not count."""
    return 0 if x.is_inference() else x._version
