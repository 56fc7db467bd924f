"""Blocks: the parts of a network that their input can go round, so that they may be dropped.

A block is a module, called once, whose first output has the shape of its first input and depends on
it along a path through no layer (a shortcut), and that holds at least one layer. Of blocks inside
each other the outermost counts, unless it is a stage: two or more blocks, or one block and nothing
else that multiplies. So residual blocks and transformer layers are found, not their attention or
feed-forward halves, and not whole stages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from allot.edges import per_sample
from allot.options.depth import Skipped
from allot.proof import mask, narrow
from allot.provenance import tensors
from allot.record import Call, Record
from allot.shortcuts import shortcuts
from allot.site import Layer, Site, Touch

Forward = Callable[[nn.Module, Any], Any]
# largest deviation, relative to the largest output: re-association in float32 over many layers
_TOLERANCE = 1e-3


@dataclass(frozen=True, kw_only=True)
class Block:
    """A module that may be dropped.  shape: per sample.  entries: of the tuple it returns, or 0."""

    module: str
    layers: tuple[str, ...]
    shape: tuple[int, ...]
    entries: int

    def holds(self, name: str) -> bool:
        return name.startswith(f"{self.module}.")


def blocks(
    model: nn.Module, record: Record, layers: Sequence[Layer], forward: Forward, example: Any
) -> list[Block]:
    """The blocks of a network in execution order; runs it once, under autograd."""
    reach = _reach(record, layers)
    entries = shortcuts(model, reach, forward=forward, example=example)
    shapes = {c.module: c.in_shape for c in record.calls}
    batch = len(tensors(example)[0])
    found = [n for n in reach if n in entries]
    return [
        Block(
            module=name,
            layers=reach[name],
            shape=per_sample(shapes[name], batch),
            entries=entries[name],
        )
        for name in found
        if name in set(_outermost(found, reach))
    ]


def _reach(record: Record, layers: Sequence[Layer]) -> dict[str, tuple[str, ...]]:
    """Module -> its layers, for those called once that hold some and share none; by their start."""
    calls: dict[str, list[Call]] = {}
    for c in record.calls:
        calls.setdefault(c.module, []).append(c)
    names = [x.module for x in layers]
    found = {}
    for c in sorted(record.calls, key=lambda c: c.start):
        own = tuple(n for n in names if n.startswith(f"{c.module}."))
        if not c.module or not own or len(calls[c.module]) > 1:
            continue
        inside = {n for n in names if any(c.start < x.start < c.end for x in calls[n])}
        if inside == set(own) and all(c.start < x.start < c.end for n in own for x in calls[n]):
            found[c.module] = own
    return found


def _outermost(names: Sequence[str], reach: Mapping[str, tuple[str, ...]]) -> Iterator[str]:
    """Of modules inside each other: the outermost that are no stages (see above)."""
    for name in _roots(names):
        inner = [n for n in names if n.startswith(f"{name}.")]
        kids = _roots(inner)
        if len(kids) > 1 or (kids and reach[kids[0]] == reach[name]):
            yield from _outermost(inner, reach)
        else:
            yield name


def _roots(names: Sequence[str]) -> list[str]:
    return [n for n in names if not any(n.startswith(f"{m}.") for m in names)]


def block_sites(
    model: nn.Module, record: Record, found: Sequence[Block], *, sites: Sequence[Site],
    forward: Forward, example: Any,
) -> list[Site]:  # fmt: skip
    """The sites of a network with those of its blocks added.

    A tensor that is changed where a block makes it, but read behind the block too, is changed at
    the block's own output from now on: the same tensor, which is there without the block as well.
    A block is fixed where that cannot be, and where the network does not run without it or does
    something else than its input going round.
    """
    free = {s: _some(s) for s in sites if s.kind == "channels" and not s.fixed}
    kept = [narrow(model, free), mask(model, free)] if free else [model]
    shape = tensors(forward(model, example))[0].shape
    changed, new = list(sites), []
    for b in found:
        moved = [_moved(s, b, record) for s in changed]
        why = "" if None not in moved else "a tensor that is read behind it is changed inside it"
        why = why or _obstacle(kept, b, shape, forward, example)
        changed = changed if why else [s for s in moved if s is not None]
        index = (0, *[-1] * (b.entries - 1)) if b.entries else ()
        new.append(
            Site(
                name=f"{b.module}.block",
                kind="block",
                shape=b.shape,
                touches=(Touch(module=b.module, role="block", index=index),),
                reach=b.layers,
                fixed=why,
            )
        )
    return changed + new


def _some(site: Site) -> set[int]:
    """About two thirds of the classes, unevenly."""
    return {c for c in range(site.shape[0]) if c % 3 != 1}


def _moved(site: Site, b: Block, record: Record) -> Site | None:
    """The site touching nothing that goes with a block but is read behind it, None: impossible."""
    inside = site.kind == "activation" and b.holds(site.touches[0].module)
    if not inside or set(site.reach) <= set(b.layers):
        return site
    times = Counter(c.module for c in record.calls)
    once = {c.module: c for c in record.calls if times[c.module] == 1}
    made = once[site.touches[0].module].made
    border = once[b.module]
    if site.touches[0].role != "out" or made is None or made != border.made:
        return None
    if min(record.uses[made]) < border.end:
        return None
    return replace(site, touches=(Touch(module=b.module, role="out"),))


def _obstacle(
    kept: Sequence[nn.Module], b: Block, shape: torch.Size, forward: Forward, example: Any
) -> str:
    """Why the network cannot go without a block, or "".  kept: it, narrowed and masked alike."""
    try:
        outputs = [_without(model, b, forward, example) for model in kept]
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError, AssertionError):
        return "the network does not run without it"
    if any(y.shape != shape for y in outputs):
        return "the network's output changes shape without it"
    limit = _TOLERANCE * float(outputs[-1].abs().max()) + 1e-6
    if not bool(((outputs[0] - outputs[-1]).abs() <= limit).all()):
        return "its output's channels are not those of its input"
    return ""


def _without(model: nn.Module, b: Block, forward: Forward, example: Any) -> Tensor:
    with swapped(model, {b.module: Skipped(entries=b.entries)}):
        return tensors(forward(model, example))[0]


@contextmanager
def swapped(model: nn.Module, standins: Mapping[str, nn.Module]) -> Iterator[None]:
    """Other modules in place of some for a while; in place, undone at the end."""
    old = {name: model.get_submodule(name) for name in standins}
    try:
        for name, module in standins.items():
            model.set_submodule(name, module)
        yield
    finally:
        for name, module in old.items():
            model.set_submodule(name, module)
