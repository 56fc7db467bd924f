"""Flow: which layers read what a module makes, moved about and rectified but not changed else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from allot.errors import ModelError
from allot.moves import Channels, Ids
from allot.provenance import tensors
from allot.record import is_unit
from allot.rewrites.carry import carried
from allot.rewrites.layers import copied
from allot.task import Task


@dataclass(frozen=True, kw_only=True)
class Reading:
    """A module that reads a source. channels: per input channel, the source's or -1."""

    module: str
    channels: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Flow:
    """Where a module's output goes.

    channels: of the output.  readers: convolutions and linears in execution order.  norms: batch
    norms that read it.  leak: what else it meets ("" where nothing does).
    """

    source: str
    channels: int
    readers: tuple[Reading, ...]
    norms: tuple[Reading, ...] = ()
    leak: str = ""

    @property
    def closed(self) -> bool:
        """Whether only layers read it: what the source does to its channels, they can undo."""
        return bool(self.readers) and not self.norms and not self.leak

    def is_whole(self, reading: Reading) -> bool:
        """Whether a reader sees all channels as they are, each once, in order."""
        return reading.channels == tuple(range(self.channels))


def flows(task: Task, sources: Sequence[str], *, rectified: bool = True) -> dict[str, Flow]:
    """Where the outputs of some modules go, from one run of a copy of `task.model`.

    rectified: whether relu and the like, products, pools and reductions over places may lie in
    between (they let a positive scale per channel pass); without, only moves of elements may, so
    that any linear change of the channels that the readers undo would pass.  Channels are dim -3
    of what a convolution makes, dim 1 of a batch norm's and the last dim of all else.  A module
    that is called twice, or not at all, leaks.
    """
    model = copied(task)
    watch = _Watch(rectified=rectified, units=_units(model))
    handles = []
    try:
        for name, module in model.named_modules():
            before, after = watch.hooks(name, module, is_source=name in sources)
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(after))
        with torch.no_grad(), watch:
            output = task.forward(model, task.example())
    finally:
        for handle in handles:
            handle.remove()
    watch.leak(tensors(output), "it is an output of the network")
    return {name: watch.flow(name) for name in sources}


def _units(model: nn.Module) -> set[str]:
    return {n for n, m in model.named_modules() if is_unit(m)}


@dataclass(kw_only=True)
class _Source:
    start: int
    width: int
    readers: list[Reading] = field(default_factory=list)
    norms: list[Reading] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)


class _Watch(TorchDispatchMode):
    """Follows the channels of every source: one number per channel, over all of them."""

    def __init__(self, *, rectified: bool, units: set[str]) -> None:
        TorchDispatchMode.__init__(self)
        self.units, self.rectified, self.inside, self.count = units, rectified, 0, 0
        self.sources: dict[str, _Source] = {}
        self.channels: dict[int, Channels] = {}
        self.alive: list[Tensor] = []  # an id is only a name while the tensor lives
        self.called: dict[str, int] = {}

    def known(self, t: Tensor) -> Channels | None:
        return self.channels.get(id(t))

    def set(self, t: Tensor, channels: Channels | None) -> None:
        self.alive.append(t)
        self.channels.pop(id(t), None)
        if channels is not None:
            self.channels[id(t)] = channels

    def leak(self, given: Sequence[Tensor], why: str) -> None:
        for t in given:
            found = self.known(t)
            for source in self.sources.values() if found is not None else ():
                assert found is not None
                if _part(found.ids, source).any():
                    source.leaks.append(why)

    def flow(self, name: str) -> Flow:
        if name not in self.sources:
            return Flow(source=name, channels=0, readers=(), leak="it never runs")
        found = self.sources[name]
        modules = [name, *(r.module for r in (*found.readers, *found.norms))]
        often = [m for m in modules if self.called[m] > 1]
        leaks = [*found.leaks, *(f"{m} is called more than once" for m in often)]
        return Flow(
            source=name,
            channels=found.width,
            readers=tuple(found.readers),
            norms=tuple(found.norms),
            leak=leaks[0] if leaks else "",
        )

    def hooks(self, name: str, module: nn.Module, *, is_source: bool) -> Any:
        is_unit = name in self.units

        def before(module: nn.Module, args: Any, kwargs: Any) -> None:
            self.called[name] = self.called.get(name, 0) + 1
            if is_unit:
                self._read(name, module, tensors((args, kwargs))[0])
            self.inside += is_unit

        def after(module: nn.Module, args: Any, output: Any) -> None:
            self.inside -= is_unit
            if is_unit:
                self.set(output, None)
            if is_source:
                self._begin(name, module, output)

        return before, after

    def _begin(self, name: str, module: nn.Module, output: Any) -> None:
        if not isinstance(output, Tensor):
            raise ModelError(f"{name} returns {type(output).__name__}; it must return a tensor")
        dim = _dim(module, output)
        width = output.shape[dim]
        if name not in self.sources:
            self.sources[name] = _Source(start=self.count, width=width)
            self.count += width
        start = self.sources[name].start
        self.set(output, Channels(dim=dim, ids=np.arange(start, start + width)))

    def _read(self, name: str, module: nn.Module, x: Tensor) -> None:
        found = self.known(x)
        if found is None:
            return
        if found.dim != _dim(module, x):
            self.leak([x], f"{name} reads it along another dim")
            return
        for source in self.sources.values():
            here = _part(found.ids, source)
            if here.any():
                ids = np.where(here, found.ids - source.start, -1)
                is_norm = isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d)
                among = source.norms if is_norm else source.readers
                among.append(Reading(module=name, channels=tuple(ids.tolist())))

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        given = [t for t in tensors((args, kwargs)) if self.known(t) is not None]
        if self.inside or not given:
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__
        out = func(*args, **kwargs)
        outs = [t for t in tensors(out) if t.is_floating_point()]
        result = carried(name, args, outs, self.known, rectified=self.rectified)
        if result is None:
            self.leak(given, f"it meets {name!r}")
        for t in outs:
            self.set(t, None)
        for t, channels in zip(outs, result or (), strict=False):
            self.set(t, channels)
        return out


def _part(ids: Ids, source: _Source) -> Any:
    return (ids >= source.start) & (ids < source.start + source.width)


def _dim(module: nn.Module, x: Tensor) -> int:
    """Where the channels of what a module reads and makes lie."""
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        return 1
    return x.dim() - (3 if isinstance(module, nn.Conv2d) else 1)
