"""Latency model: seconds of a whole plan from the seconds of its layers, fitted on a few networks.

The sum of layers alone ranks plans well but has the wrong scale (caches, fusion), and tensors are
converted between layers (`allot.conversions`); the factors are fitted (`allot.latency_fit`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from torch import Generator, rand, randint

from allot import conversions
from allot.bill import LayerState, layer_table, states
from allot.latency import LatencyTable, of_state, signature
from allot.latency_fit import Fit, Floats, Sample
from allot.site import Layer
from allot.space import Choice, Point, Space
from allot.table import Table, Term
from allot.target import Target

_FORMATS = ("weight", "activation")


def samples(
    space: Space,
    target: Target,
    latency: LatencyTable,
    seconds: Sequence[tuple[Point, float]],
) -> list[Sample]:
    """What a fit needs of plans and what they took [s]."""
    found = (
        layer_sums(space, target, latency),
        conversions.vain(space, target, batch=latency.batch),
        conversions.leaving(space, target, batch=latency.batch),
    )
    return [(*(t.of(p) for t in found), s) for p, s in seconds]  # type: ignore[misc]


def floats(space: Space, target: Target, latency: LatencyTable, points: Sequence[Point]) -> Floats:
    """By kind of layer, seconds alone of what computes in floats, of every plan."""
    found: dict[str, np.ndarray] = {}
    for layer in space.graph.layers:
        at, cells = states(space, layer)
        seconds = {k: _float_s(s, target, latency) for k, s in cells.items()}
        per_plan = np.array([seconds[tuple(p[i] for i in at)] for p in points])
        name = kind(layer)
        found[name] = found[name] + per_plan if name in found else per_plan
    return found


def _float_s(s: LayerState, target: Target, latency: LatencyTable) -> float:
    if s.gone:
        return 0.0
    found = of_state(s, target)
    return 0.0 if found.integer else latency.seconds(found)


def kind(layer: Layer) -> str:
    """What layers of one shape share, whatever is chosen for them."""
    return signature(layer, ins=layer.ins, outs=layer.weight[0], integer=False).key


def layer_sums(space: Space, target: Target, latency: LatencyTable) -> Table:
    """Seconds of the layers alone, summed: one term per layer."""
    return layer_table(
        space,
        lambda s: 0.0 if s.gone else latency.seconds(of_state(s, target)),
        unit="s",
        origin=f"{latency.runtime}, {latency.digest[:12]}",
    )


def table(space: Space, target: Target, latency: LatencyTable, model: Fit) -> Table:
    """Seconds of every plan of the space, as a table that the solver reads."""
    sums = layer_sums(space, target, latency)
    more = layer_table(
        space,
        lambda s: model.extras.get(kind(s.layer), 0.0) * _float_s(s, target, latency),
        unit="s",
        origin=sums.origin,
    )
    parts = (
        (model.b, sums),
        (float(bool(model.extras)), more),
        (model.vain, conversions.vain(space, target, batch=latency.batch)),
        (model.leaving, conversions.leaving(space, target, batch=latency.batch)),
    )
    terms = [Term(at=t.at, values=k * t.values) for k, part in parts if k > 0 for t in part.terms]
    constant = model.a + sum(k * part.constant for k, part in parts)
    return Table(unit="s", origin=sums.origin, constant=constant, terms=tuple(terms))


def probes(space: Space, *, count: int, generator: Generator) -> tuple[Point, ...]:
    """Plans to fit the model on: the original, all in integers, and `count` - 2 random mixtures.

    Integers are the widest of each site.  A mixture takes them at every site with a chance of its
    own, spread evenly over mixtures; every fourth has the original's structure (widths, blocks,
    tokens), the others one of three that are drawn, since a structure of its own is what makes a
    file long to write.
    """
    whole = tuple(_widest(c) for c in space.choices)
    shapes = [space.original, *(_drawn(space, generator) for _ in range(3))]
    found = [space.original, whole]
    for i in range(count - 2):
        share, shape = (i + 0.5) / (count - 2), shapes[i % len(shapes)]
        taken = (rand(len(whole), generator=generator) < share).tolist()
        mixed = [w if t else 0 for w, t in zip(whole, taken, strict=True)]
        found.append(tuple(max(m, s) for m, s in zip(mixed, shape, strict=True)))
    return tuple(found)


def _drawn(space: Space, generator: Generator) -> Point:
    """A point of random structure and original formats."""
    return tuple(
        int(randint(len(c.options), (1,), generator=generator))
        if c.options[0].kind not in _FORMATS
        else 0
        for c in space.choices
    )


def _widest(choice: Choice) -> int:
    """The option of most bits that is an integer format; the original where there is none."""
    site_kind = choice.options[0].kind
    if site_kind not in _FORMATS or len(choice.options) == 1:
        return 0
    bits = {o.label: i for i, o in enumerate(choice.options) if not o.is_original}
    return bits[max(bits, key=lambda label: int("".join(filter(str.isdigit, label)) or 0))]
