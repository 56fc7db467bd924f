"""Edges: at which module boundary a tensor can be changed for everyone who reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from allot.record import Call, Key, Op, Record
from allot.site import Layer, Site, Touch

# of a quantized tensor they make a tensor on the same grid
_ON_GRID = frozenset(
    f"aten::{name}"
    for name in ("relu", "relu_", "hardtanh", "hardtanh_", "max_pool2d_with_indices", "max_pool2d")
)


def activation_sites(
    record: Record, layers: Sequence[Layer], batch: int
) -> tuple[list[Site], dict[str, str]]:
    """One site per tensor that a layer reads, and the name of its input's site per layer.

    A site sits at the earliest boundary after which all uses of the tensor come: the output of a
    module, or the first input of one inside which all uses lie.  Where no boundary covers all
    uses, and for layers called more than once, every layer has a site at its own input.
    """
    sites: list[Site] = []
    inputs: dict[str, str] = {}
    times = Counter(c.module for c in record.calls)
    for key, calls in _readers(record, layers).items():
        edge = _edge(record, key, calls, times)
        parts = (
            [(calls, edge)] if edge else [([c], Touch(module=c.module, role="in")) for c in calls]
        )
        for part, touch in parts:
            assert touch is not None
            if part[0].module in inputs:
                continue
            site = _site(part, touch, batch)
            sites.append(site)
            inputs |= dict.fromkeys(site.reach, site.name)
    return sites, inputs


def result_sites(record: Record, layers: Sequence[Layer], batch: int) -> list[Site]:
    """One site per tensor that a convolution makes and that no site of its own stands for.

    Such a tensor goes into a sum, a concatenation, a nonlinearity.  The site sits at the output of
    the last module before that: the convolution, its norm, or a ReLU or maximum pooling which
    alone reads it.  Convolutions that are called more than once have none.
    """
    times = Counter(c.module for c in record.calls)
    known = {
        key
        for key, calls in _readers(record, layers).items()
        if _edge(record, key, calls, times) is not None
    }
    found = []
    for layer in layers:
        if layer.op != "conv2d" or times[layer.module] > 1:
            continue
        touch, key = _last(record, layer, times)
        if key not in known:
            site = Site(
                name=f"{layer.module}.result",
                kind="activation",
                shape=layer.out_shape,
                touches=(touch,),
                reach=(),
            )
            found.append(site)
    return found


def _last(record: Record, layer: Layer, times: Counter[str]) -> tuple[Touch, Key | None]:
    """The last boundary at which what a convolution makes lies alone, and the value at the end of
    the operations that a grid passes through."""
    made = {c.module: c.made for c in record.calls}
    name = layer.norm or layer.module
    key = made[name]
    readers: dict[Key, Op] = {k: op for op in record.ops for k in op.read if k != op.made}
    modules = {c.made: c.module for c in record.calls if c.made and times[c.module] == 1}
    while key is not None and len(record.uses.get(key, ())) == 1 and key in readers:
        op = readers[key]
        if op.name not in _ON_GRID:
            break
        key = op.made
        name = modules.get(key, name) or name
    return Touch(module=name, role="out"), key


def _readers(record: Record, layers: Sequence[Layer]) -> dict[Key, list[Call]]:
    """Value -> calls of layers that read it, in execution order."""
    names = {x.module for x in layers}
    found: dict[Key, list[Call]] = {}
    for call in sorted(record.calls, key=lambda c: c.start):
        if call.module in names and call.read is not None:
            found.setdefault(call.read, []).append(call)
    return found


def _edge(record: Record, key: Key, calls: Sequence[Call], times: Counter[str]) -> Touch | None:
    """The boundary of a value that layers read once each; None where there is none for all."""
    once = all(times[c.module] == 1 for c in calls)
    return _boundary(record, key, times) if once else None


def _site(calls: Sequence[Call], touch: Touch, batch: int) -> Site:
    return Site(
        name=f"{calls[0].module}.input",
        kind="activation",
        shape=per_sample(calls[0].in_shape, batch),
        touches=(touch,),
        reach=tuple(dict.fromkeys(c.module for c in calls)),
    )


def per_sample(shape: tuple[int, ...], batch: int) -> tuple[int, ...]:
    """The shape without its batch dim: [n, ...] -> [...]; a merged one [n * m, c] -> [m, c]."""
    if not shape or shape[0] % batch:
        return shape
    return shape[1:] if shape[0] == batch else (shape[0] // batch, *shape[1:])


def _boundary(record: Record, key: Key, times: Counter[str]) -> Touch | None:
    """The earliest boundary that covers every use of a value; None where there is none."""
    uses = record.uses[key]
    first, last = min(uses), max(uses)
    found: list[tuple[int, Touch]] = []
    for call in record.calls:
        if not call.module or times[call.module] > 1:
            continue
        if call.made == key and call.end < first:
            found.append((call.end, Touch(module=call.module, role="out")))
        if call.read == key and call.alone and call.start <= first and last <= call.end:
            found.append((call.start, Touch(module=call.module, role="in")))
    return min(found, key=lambda x: x[0])[1] if found else None
