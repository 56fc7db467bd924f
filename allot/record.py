"""Record: one run of a network, with what every module read and every channel came from."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from allot.moves import Channels, Ids
from allot.provenance import Classes, follow, tensors

# a value of a tensor: which tensor, and how often it was written to in place before
Key = tuple[int, int]
# modules taken as wholes: what happens inside them is known
UNITS = (nn.Conv2d, nn.Linear, nn.BatchNorm1d, nn.BatchNorm2d)


def is_unit(module: nn.Module) -> bool:
    """Exactly these classes: a subclass may compute something else with the same weights."""
    if type(module) in (nn.BatchNorm1d, nn.BatchNorm2d):
        return module.running_mean is not None
    return type(module) in UNITS


@dataclass(kw_only=True)
class Call:
    """One call of a module. read: value of its only first input or None, made: of its output."""

    module: str
    start: int
    end: int = -1
    read: Key | None = None
    made: Key | None = None
    alone: bool = False
    in_shape: tuple[int, ...] = ()
    out_shape: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Op:
    """An operation outside the units. name: as in "aten::relu"; made: of its first output."""

    name: str
    read: tuple[Key, ...]
    made: Key


@dataclass(kw_only=True)
class Record:
    """What a run left behind.

    order: (module, "start" | "end") in time.  calls: of every module.  ops: what else computed.
    uses: value -> times at which an op or a unit read it.  touches: (unit, "in" | "out" | "norm")
    -> class of each position.
    """

    classes: Classes = field(default_factory=Classes)
    order: list[tuple[str, str]] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    ops: list[Op] = field(default_factory=list)
    uses: dict[Key, list[int]] = field(default_factory=dict)
    touches: dict[tuple[str, str], Ids] = field(default_factory=dict)
    channels: dict[int, Channels] = field(default_factory=dict)
    clock: int = 0
    inside: int = 0
    open: list[Call] = field(default_factory=list)
    alive: list[Tensor] = field(default_factory=list)

    def tick(self) -> int:
        self.clock += 1
        return self.clock

    def key(self, t: Tensor) -> Key:
        self.alive.append(t)  # an id is only a name while the tensor lives
        return id(t), 0 if t.is_inference() else t._version

    def use(self, t: Tensor) -> None:
        self.uses.setdefault(self.key(t), []).append(self.clock)

    def known(self, t: Tensor) -> Channels | None:
        return self.channels.get(id(t))

    def set(self, t: Tensor, channels: Channels | None) -> None:
        self.alive.append(t)
        if channels is None:
            self.channels.pop(id(t), None)
        else:
            self.channels[id(t)] = channels

    def result(self, output: Any) -> None:
        """The network's output: read by the user, its channels fixed."""
        self.tick()
        for t in tensors(output):
            self.use(t)
            found = self.known(t)
            if found is not None:
                self.classes.fix(found.ids.tolist(), "it is an output of the network")


class Watch(TorchDispatchMode):
    """Follows every op outside the units."""

    def __init__(self, record: Record) -> None:
        TorchDispatchMode.__init__(self)
        self.record = record

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        record, kwargs = self.record, kwargs or {}
        if record.inside:
            return func(*args, **kwargs)
        record.tick()
        given = tensors((args, kwargs))
        for t in given:
            record.use(t)
        read = tuple(record.key(t) for t in given)
        out = func(*args, **kwargs)
        for t in tensors(out)[:1]:
            record.ops.append(Op(name=func._schema.name, read=read, made=self._made(t, given)))
        found = follow(record.classes, func, args, kwargs, out, record.known)
        for t in tensors(out):
            record.set(t, None)
        for t, channels in found:
            record.set(t, channels)
        return out

    def _made(self, out: Tensor, given: list[Tensor]) -> Key:
        """The value of an output; that it was written to in place is counted only later."""
        name, version = self.record.key(out)
        return name, version + (not out.is_inference() and any(t is out for t in given))


def run(model: nn.Module, forward: Callable[[nn.Module, Any], Any], example: Any) -> Record:
    """Run `forward(model, example)` once under watch; the hooks are gone when it returns."""
    record, handles = Record(), []
    try:
        for name, module in model.named_modules():
            before, after = _hooks(record, name)
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            handles.append(module.register_forward_hook(after, with_kwargs=True))
        with Watch(record):
            output = forward(model, example)
    finally:
        for h in handles:
            h.remove()
    record.result(output)
    return record


def _hooks(record: Record, name: str) -> tuple[Callable[..., None], Callable[..., None]]:
    def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        call = Call(module=name, start=record.tick())
        record.order.append((name, "start"))
        given = tensors((args, kwargs))
        if given:
            call.read, call.in_shape = record.key(given[0]), tuple(given[0].shape)
            same = sum(t is given[0] for t in given)
            call.alone = same == 1 and bool(args) and args[0] is given[0]
        if is_unit(module) and not record.inside:
            record.use(given[0])
        record.inside += is_unit(module)
        record.open.append(call)

    def after(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any
    ) -> None:
        record.inside -= is_unit(module)
        call = record.open.pop()
        call.end = record.tick()
        record.order.append((name, "end"))
        record.calls.append(call)
        if isinstance(output, Tensor):
            if is_unit(module) and not record.inside:
                given = tensors((args, kwargs))[0]
                record.set(output, unit(record, name, module, given, output))
            call.made, call.out_shape = record.key(output), tuple(output.shape)

    return before, after


def unit(record: Record, name: str, module: nn.Module, x: Tensor, y: Tensor) -> Channels:
    """Channels of a unit's output; writes down which classes touch the unit."""
    if isinstance(module, nn.Conv2d):
        dim_in, dim_out, size = x.dim() - 3, y.dim() - 3, module.in_channels
    else:
        dim_in = x.dim() - 1 if isinstance(module, nn.Linear) else 1
        dim_out, size = dim_in, x.shape[dim_in]
    found = record.known(x)
    if found is not None and found.dim != dim_in:
        record.classes.fix(found.ids.tolist(), f"{name} reads it along another dim")
        found = None
    ids = np.full(size, -1) if found is None else found.ids
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        return Channels(dim=dim_out, ids=_normed(record, name, ids))
    if isinstance(module, nn.Conv2d) and module.groups > 1:
        return Channels(dim=dim_out, ids=_grouped(record, name, module, ids))
    _touch(record, name, "in", ids)
    fresh = record.classes.fresh(y.shape[dim_out])
    _touch(record, name, "out", fresh)
    return Channels(dim=dim_out, ids=fresh)


def _normed(record: Record, name: str, ids: Ids) -> Ids:
    if (ids < 0).all():
        ids = record.classes.fresh(len(ids))
        record.classes.fix(ids.tolist(), f"{name} normalizes what no layer makes")
    _touch(record, name, "norm", ids)
    return ids


def _grouped(record: Record, name: str, module: nn.Conv2d, ids: Ids) -> Ids:
    """A depthwise convolution hands its classes on; other groups may not be narrowed."""
    if module.groups == module.in_channels == module.out_channels and (ids >= 0).any():
        _touch(record, name, "out", ids)
        return ids
    fresh = record.classes.fresh(module.out_channels)
    why = f"{name} is a convolution in {module.groups} groups"
    record.classes.fix([*ids.tolist(), *fresh.tolist()], why)
    _touch(record, name, "in", ids)
    _touch(record, name, "out", fresh)
    return fresh


def _touch(record: Record, name: str, role: str, ids: Ids) -> None:
    earlier = record.touches.get((name, role))
    if earlier is not None:
        why = f"{name} is called more than once"
        record.classes.fix([*earlier.tolist(), *ids.tolist()], why)
        return
    record.touches[name, role] = ids
