"""Latency model: seconds of a whole plan from the seconds of its layers, fitted on a few networks.

T(plan) = a + b * (sum of its layers' seconds alone) + c * (elements that cross between float and
int8). The sum ranks plans well but has the wrong scale (caches, fusion), so a, b and c are fitted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import nnls
from torch import Generator, randint

from allot.bill import layer_table, states, touching
from allot.errors import InputError
from allot.latency import LatencyTable, of_state
from allot.option import FIXED, count
from allot.site import Layer
from allot.space import Choice, Point, Space
from allot.table import Table, Term
from allot.target import Target

# sum of layers [s], elements that cross, seconds measured
Sample = tuple[float, float, float]


@dataclass(frozen=True, kw_only=True)
class Fit:
    """T = a + b * sum + c * crossing.  error: mean relative error on its samples."""

    a: float
    b: float
    c: float
    error: float
    n: int


def fit(samples: Sequence[Sample]) -> Fit:
    """Non-negative least squares of relative errors (Lawson and Hanson 1974).

    Raises InputError for fewer than three samples or times that are not positive.
    """
    data = np.asarray(samples, dtype=np.float64).reshape(-1, 3)
    if len(data) < 3 or (data[:, 2] <= 0).any():
        raise InputError(f"a latency model needs three or more positive times, got {len(data)}")
    columns = np.stack([np.ones(len(data)), data[:, 0], data[:, 1]], axis=1)
    unit = np.abs(columns).max(0)
    unit[unit == 0] = 1.0
    seconds = data[:, 2]
    found, _ = nnls(columns / unit / seconds[:, None], np.ones(len(data)))
    a, b, c = (float(v) for v in found / unit)
    error = float(np.mean(np.abs(columns @ np.array([a, b, c]) / seconds - 1)))
    return Fit(a=a, b=b, c=c, error=error, n=len(data))


def layer_sums(space: Space, target: Target, latency: LatencyTable) -> Table:
    """Seconds of the layers alone, summed: one term per layer."""
    return layer_table(
        space,
        lambda s: 0.0 if s.gone else latency.seconds(of_state(s, target)),
        unit="s",
        origin=f"{latency.runtime}, {latency.digest[:12]}",
    )


def crossings(space: Space, target: Target, *, batch: int) -> Table:
    """Elements that cross between float and int8 from layer to layer, per call.

    A layer's input crosses where the layer and the one before it in execution order compute in
    different formats; the network's input is float. Branches are taken for a chain, tensors at
    their full width, and the layers of a dropped block, into which nothing crosses, for what the
    one behind them follows: what that costs in truth the fitted c absorbs.
    """
    where = {name: i for i, c in enumerate(space.choices) for name in (c.site, *c.tied)}
    terms, before, constant = [], None, 0.0
    for layer in space.graph.layers:
        at, values = _crossing(space, target, where, before, layer)
        at, values = _present(space, layer, at, values * elements(layer, batch))
        if at:
            terms.append(Term(at=at, values=values))
        else:
            constant += float(values)
        before = layer
    return Table(unit="element", origin="counted", constant=constant, terms=tuple(terms))


def elements(layer: Layer, batch: int) -> int:
    """Elements of the tensor that a layer reads, for a whole batch."""
    return batch * count(layer.in_shape)


def _crossing(
    space: Space, target: Target, where: dict[str, int], before: Layer | None, layer: Layer
) -> tuple[tuple[int, ...], np.ndarray]:
    names = [f"{layer.module}.weight", layer.input]
    names += [f"{before.module}.weight", before.input] if before else []
    at = tuple(sorted({where[n] for n in names if n in where}))
    values = np.zeros([len(space.choices[i].options) for i in at])
    for cell in np.ndindex(*values.shape):
        chosen = dict(zip(at, cell, strict=True))
        here = _integer(space, target, where, chosen, layer)
        there = before is not None and _integer(space, target, where, chosen, before)
        values[cell] = float(here != there)
    return at, values


def _present(
    space: Space, layer: Layer, at: tuple[int, ...], values: np.ndarray
) -> tuple[tuple[int, ...], np.ndarray]:
    """The values of a term times the share of the layer's input that a plan still has."""
    structure = ("block", "tokens")
    sites = {i: space.graph.site(space.choices[i].site) for i in touching(space, layer)}
    extra = tuple(i for i, s in sites.items() if s.kind in structure)
    if not extra:
        return at, values
    part = Space(graph=space.graph, choices=tuple(space.choices[i] for i in extra))
    shares = [0.0 if s.gone else s.tokens / s.all_tokens for s in states(part, layer)[1].values()]
    grid = np.array(shares).reshape(part.counts)
    joint = np.multiply.outer(values, grid)
    order = np.argsort((*at, *extra))
    return tuple(sorted((*at, *extra))), joint.transpose(order)


def _integer(
    space: Space, target: Target, where: dict[str, int], chosen: dict[int, int], layer: Layer
) -> bool:
    """Whether a layer takes codes from the one before it: ranges are known, and of no groups."""
    found = []
    for name in (f"{layer.module}.weight", layer.input):
        if name not in where:
            return False
        option = space.choices[where[name]].options[chosen[where[name]]]
        found.append(option.effect(space.graph.site(name)))
    weight, entering = found
    if entering.ranges != FIXED or weight.group:
        return False
    return max(target.computes(weight.compute_bits, entering.compute_bits)) <= 8


def table(space: Space, target: Target, latency: LatencyTable, model: Fit) -> Table:
    """Seconds of every plan of the space, as a table that the solver reads."""
    sums = layer_sums(space, target, latency)
    crossing = crossings(space, target, batch=latency.batch)
    terms = [Term(at=t.at, values=model.b * t.values) for t in sums.terms]
    terms += [Term(at=t.at, values=model.c * t.values) for t in crossing.terms if model.c > 0]
    constant = model.a + model.b * sums.constant + model.c * crossing.constant
    return Table(unit="s", origin=sums.origin, constant=constant, terms=tuple(terms))


def probes(space: Space, *, count: int, generator: Generator) -> tuple[Point, ...]:
    """Plans to fit the model on: the original, all in integers, and `count` - 2 random mixtures.

    Integers are the widest of each site; a mixture draws every activation edge and channel group
    by itself and leaves weights in integers.
    """
    whole = tuple(_widest(c) for c in space.choices)
    found = [space.original, whole]
    for _ in range(count - 2):
        point = list(whole)
        for i, choice in enumerate(space.choices):
            if choice.options[0].kind != "weight":
                point[i] = int(randint(len(choice.options), (1,), generator=generator))
        found.append(tuple(point))
    return tuple(found)


def _widest(choice: Choice) -> int:
    """The option of most bits that is an integer format; the original where there is none."""
    site_kind = choice.options[0].kind
    if site_kind not in ("weight", "activation") or len(choice.options) == 1:
        return 0
    bits = {o.label: i for i, o in enumerate(choice.options) if not o.is_original}
    return bits[max(bits, key=lambda label: int("".join(filter(str.isdigit, label)) or 0))]
