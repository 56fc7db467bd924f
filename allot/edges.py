"""Edges: at which module boundary a tensor can be changed for everyone who reads it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from allot.record import Call, Key, Record
from allot.site import Layer, Site, Touch


def activation_sites(
    record: Record, layers: Sequence[Layer], batch: int
) -> tuple[list[Site], dict[str, str]]:
    """One site per tensor that a layer reads, and the name of its input's site per layer.

    A site sits at the earliest boundary after which all uses of the tensor come: the output of a
    module, or the first input of one inside which all uses lie.  Where no boundary covers all
    uses, and for layers called more than once, every layer has a site at its own input.
    """
    times = Counter(c.module for c in record.calls)
    names = {x.module for x in layers}
    readers: dict[Key, list[Call]] = {}
    for call in sorted(record.calls, key=lambda c: c.start):
        if call.module in names and call.read is not None:
            readers.setdefault(call.read, []).append(call)
    sites: list[Site] = []
    inputs: dict[str, str] = {}
    for key, calls in readers.items():
        once = all(times[c.module] == 1 for c in calls)
        edge = _boundary(record, key, times) if once else None
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
