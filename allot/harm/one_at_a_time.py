"""One at a time: the measured divergence with one option switched on, after cheap recovery."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np

from allot.bill import touching
from allot.measure import Meter
from allot.recover import LIGHT, Recovery
from allot.space import Point, Space
from allot.table import Table, Term


def one_at_a_time(
    space: Space,
    meter: Meter,
    *,
    recovery: Recovery = LIGHT,
    progress: Callable[[float], None] = lambda share: None,
) -> Table:
    """Mean divergence [nats] that every option alone adds, the rest as in the original.

    Additive from the original (as in Cai et al. 2020), but after recovery.  Where options are
    pinned, all is counted from the pinned network, whose divergence is the constant.
    """
    base = meter.loss(space.options(space.original), recovery=recovery).divergence
    total, done = max(1, sum(n - 1 for n in space.counts)), 0
    terms = []
    for i, choice in enumerate(space.choices):
        values = np.zeros(len(choice.options))
        for o in range(1, len(choice.options)):
            point = changed(space.original, {i: o})
            loss = meter.loss(space.options(point), recovery=recovery)
            values[o] = max(0.0, loss.divergence - base)
            done += 1
            progress(done / total)
        terms.append(Term(at=(i,), values=values))
    origin = "one at a time, after recovery"
    return Table(unit="nat", origin=origin, constant=base, terms=tuple(terms))


def changed(point: Point, changes: dict[int, int]) -> Point:
    """The point with some choices set to other options."""
    return tuple(changes.get(i, o) for i, o in enumerate(point))


def add_pairs(
    table: Table,
    space: Space,
    meter: Meter,
    *,
    around: Sequence[int],
    most: int = 24,
    recovery: Recovery = LIGHT,
    progress: Callable[[float], None] = lambda share: None,
) -> Table:
    """The table with measured pair terms for neighbours of largest harm at the point `around`.

    One combination is measured per pair, the options of `around`; what it loses beyond the sum
    gives the correlation of the two changes, rho = excess / sqrt(h_i h_j), in [-2, 2] for a
    divergence that is half a squared length; other combinations get rho sqrt(h_i h_j).
    """
    single = {t.at[0]: t.values for t in table.terms if len(t.at) == 1}
    alone = {i: values[around[i]] for i, values in single.items() if around[i]}
    pairs = [(i, j) for i, j in _neighbours(space) if min(alone.get(i, 0), alone.get(j, 0)) > 0]
    pairs.sort(key=lambda p: -math.sqrt(alone[p[0]] * alone[p[1]]))
    terms = list(table.terms)
    for k, (i, j) in enumerate(pairs[:most]):
        point = changed(space.original, {i: around[i], j: around[j]})
        both = meter.loss(space.options(point), recovery=recovery).divergence - table.constant
        a, b = single[i], single[j]
        scale = math.sqrt(alone[i] * alone[j])
        rho = float(np.clip((both - alone[i] - alone[j]) / scale, -2, 2))
        terms.append(Term(at=(i, j), values=rho * np.sqrt(np.outer(a, b))))
        progress((k + 1) / min(most, len(pairs)))
    origin = f"{table.origin}, {len(terms) - len(single)} pairs measured"
    return replace(table, origin=origin, terms=tuple(terms))


def _neighbours(space: Space) -> list[tuple[int, int]]:
    """Pairs of choices that meet in one layer or in two layers that follow each other."""
    groups = [touching(space, layer) for layer in space.graph.layers]
    found = set()
    for here, after in zip(groups, [*groups[1:], ()], strict=True):
        found |= set(combinations(sorted({*here, *after}), 2))
    return sorted(found)
