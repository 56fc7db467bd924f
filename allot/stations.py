"""Stations: stand in every module's place; each runs what is in it and records, or replays."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from allot.bank import Bank
from allot.dataflow import one_tensor, watched
from allot.ghost import Memory, ghost
from allot.provenance import tensors
from allot.task import Task


@dataclass(eq=False, slots=True, kw_only=True)
class Record:
    """Output of a module: its values (None where nothing will read them) and its shape.

    rest: None for a bare tensor, else what follows it in a tuple.  copied: whether something may
    change it in place, so that it is copied.  saved: kept elsewhere, so it counts there.
    """

    tensor: Tensor | None
    shape: torch.Size
    dtype: torch.dtype
    rest: tuple[Any, ...] | None
    copied: bool
    saved: bool = False

    def again(self) -> Any:
        """The values."""
        assert self.tensor is not None
        y = self.tensor.clone() if self.copied else self.tensor
        return y if self.rest is None else (y, *self.rest)

    def ghost(self, memory: Memory) -> Any:
        """The shape alone."""
        y = ghost(self.shape, self.dtype, memory)
        return y if self.rest is None else (y, *self.rest)


@dataclass(kw_only=True, eq=False)
class Now:
    """What all stations look at: modules that ended before `start` are replayed.

    live: those of them whose values are read.  left: bytes that may still be recorded.
    shapes: what ops make of ghosts.
    """

    start: float = -1.0
    live: Collection[str] = frozenset()
    left: int = 0
    shapes: Memory = field(default_factory=dict)


class Station(nn.Module):
    """One module's place. end: when it ends in `graph.order`; infinite where it is never
    replayed.  needed: whether any boundary reads its values."""

    is_wrapper: ClassVar[bool] = True

    def __init__(self, name: str, inner: nn.Module, *, now: Now, end: float) -> None:
        nn.Module.__init__(self)
        self.inner = inner
        self.name, self.now, self.end = name, now, end
        self.needed = self.copied = False
        self.record: Record | None = None

    def __getattr__(self, name: str) -> Any:
        # a forward may look at attributes of its modules
        inner = self.__dict__["_modules"]["inner"]
        return inner if name == "inner" else getattr(inner, name)

    def put(self, inner: nn.Module) -> None:
        """Switches what runs here."""
        self._modules["inner"] = inner

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        record = self.record
        if self.end < self.now.start and record is not None:
            return record.again() if self.name in self.now.live else record.ghost(self.now.shapes)
        y = self._modules["inner"](*args, **kwargs)  # type: ignore[misc]
        if self.end < math.inf:
            self._take((args, kwargs), y)
        return y

    def _take(self, given: Any, output: Any) -> None:
        """Keeps the output where it is needed, its own and within the budget."""
        self._forget()
        if not one_tensor(output):
            return
        y, rest = (output, None) if isinstance(output, Tensor) else (output[0], output[1:])
        self.record = Record(
            tensor=None, shape=y.shape, dtype=y.dtype, rest=rest, copied=self.copied
        )
        # a stand-in may hand on its input: then a later change of one is a change of the other
        shared = self.copied and any(_same_storage(x, y) for x in tensors(given))
        if self.needed and y.nbytes <= self.now.left and not shared:
            self.now.left -= y.nbytes
            self.record.tensor = y.clone() if self.copied else y

    def _forget(self) -> None:
        if self.record is not None and self.record.tensor is not None and not self.record.saved:
            self.now.left += self.record.tensor.nbytes
        self.record = None


@dataclass(frozen=True, kw_only=True)
class Boundary:
    """start: the moment from which all is run. live: stations whose values are read then."""

    start: int
    live: frozenset[str]


class Stations:
    """The stations of one network, and what may be replayed before each boundary.

    starts: boundaries that will be asked for.  touched: modules that stand-ins may replace.
    most_bytes: of records held at a time, apart from the saved ones.
    """

    def __init__(
        self,
        task: Task,
        bank: Bank,
        *,
        starts: Sequence[int],
        touched: Collection[str],
        most_bytes: int,
    ) -> None:
        self.bank, self.most_bytes = bank, most_bytes
        self.now = Now(left=most_bytes)
        flow = watched(bank.skeleton, task.forward, task.example())
        order = enumerate(bank.graph.order)
        # each of them is called once
        ends = {n: i for i, (n, event) in order if event == "end" and n in flow.replayable}
        self.boundaries = [
            Boundary(start=s, live=flow.read({n for n, e in ends.items() if e < s}, touched))
            for s in sorted(set(starts))
        ]
        self.by_name: dict[str, Station] = {
            n: Station(n, bank.module(n), now=self.now, end=ends.get(n, math.inf))
            for n in dict.fromkeys((*ends, *touched))
        }
        for name in frozenset().union(*(b.live for b in self.boundaries)):
            self.by_name[name].needed = True
        for name in set(ends) - flow.calm:
            self.by_name[name].copied = True

    @contextmanager
    def installed(self) -> Iterator[nn.Module]:
        """The skeleton with every station in place."""
        with self.bank.trial(self.by_name) as model:
            yield model

    def put(self, modules: Mapping[str, nn.Module]) -> None:
        """Switches what runs at some stations."""
        for name, module in modules.items():
            self.by_name[name].put(module)

    def plain_name(self, path: str) -> str:
        """The name of a module of the installed skeleton without the wrappers around it."""
        module, names = self.bank.skeleton, []
        for part in path.split("."):
            if not getattr(module, "is_wrapper", False):
                names.append(part)
            module = module._modules[part]  # type: ignore[assignment]
        return ".".join(names)

    def from_start(self) -> None:
        """Everything is run next."""
        self.now.start, self.now.live = -1.0, frozenset()

    def seek(self, start: int) -> None:
        """What ended before `start` is replayed next; less where its records are not there."""
        self.from_start()
        for b in reversed(self.boundaries):
            if b.start <= start and all(self._held(n) for n in b.live):
                self.now.start, self.now.live = b.start, b.live
                return

    def _held(self, name: str) -> bool:
        record = self.by_name[name].record
        return record is not None and record.tensor is not None

    def save(self, most_bytes: int) -> dict[str, Record]:
        """All records, values up to `most_bytes`; they stay as they are whatever runs next."""
        found = {n: s.record for n, s in self.by_name.items() if s.record is not None}
        for record in found.values():
            record.saved = True
            if record.tensor is not None:
                most_bytes -= record.tensor.nbytes
                if most_bytes < 0:
                    record.tensor = None
        return found

    def load(self, records: Mapping[str, Record]) -> None:
        """Puts saved records back; they do not count as held."""
        for name, station in self.by_name.items():
            station.record = records.get(name)
        self.now.left = self.most_bytes


def _same_storage(x: Tensor, y: Tensor) -> bool:
    return x.untyped_storage().data_ptr() == y.untyped_storage().data_ptr()
