"""Path: the way of least harm through a graph without cycles, within limits on what it costs.

A resource-constrained shortest path by labels (Irnich and Desaulniers 2005): of the ways to a node
that cost no less in anything and harm no less than another, none is carried on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from allot.errors import BudgetError, InputError
from allot.table import Array

Index = NDArray[np.intp]

# finer than costs of plans are told apart
BUCKETS = 2000


@dataclass(frozen=True, kw_only=True)
class Arc:
    """A way from one node to a later one. harm: of any sign.  costs: at least 0, one per limit."""

    start: int
    end: int
    harm: float
    costs: tuple[float, ...]


@dataclass(frozen=True, kw_only=True)
class Path:
    """arcs: positions of the arcs taken, in order.  harm, costs: their sums."""

    arcs: tuple[int, ...]
    harm: float
    costs: tuple[float, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Labels:
    """Ways to one node: harm [m], costs [m, limits], the arc that they end with and the label that
    it goes on from, -1 at the start."""

    harm: Array
    costs: Array
    arc: Index
    before: Index

    def take(self, rows: Index) -> _Labels:
        return _Labels(
            harm=self.harm[rows], costs=self.costs[rows], arc=self.arc[rows],
            before=self.before[rows],
        )  # fmt: skip


def path(
    arcs: Sequence[Arc], *, nodes: int, limits: Sequence[float], buckets: int | None = BUCKETS
) -> Path:
    """The arcs of least harm from node 0 to the last one, whose costs are within the limits.

    Arcs lead from a node to one of a higher number.  Side conditions (so many arcs of a kind at
    most) are limits too.  buckets: of two ways to a node whose costs lie in the same ones, each a
    limit's share, only the one of less harm goes on; None for exact.  With buckets, limits still
    hold exactly, and the harm is at most the least within limits smaller by the share of as many
    buckets as the way has arcs.  Raises InputError for an arc that leads back, BudgetError where
    no way fits.
    """
    for a in arcs:
        if not 0 <= a.start < a.end < nodes or len(a.costs) != len(limits):
            raise InputError(
                f"an arc leads from {a.start} to {a.end} of {nodes} nodes at {len(a.costs)} costs; "
                f"it must lead to a later node, at one cost for each of the {len(limits)} limits"
            )
    most = np.asarray(limits, dtype=np.float64)
    left = _least(arcs, nodes, len(most))
    if np.any(left[0] > most):
        least = ", ".join(f"{v:.10g}" for v in left[0])
        raise BudgetError(f"no way through the steps fits; each cost is at least {least}")
    into: list[list[int]] = [[] for _ in range(nodes)]
    for i, a in enumerate(arcs):
        into[a.end].append(i)
    none = np.array([-1], dtype=np.intp)
    first = _Labels(harm=np.zeros(1), costs=np.zeros((1, len(most))), arc=none, before=none)
    labels = [first]
    for node in range(1, nodes):
        labels.append(_reached(arcs, into[node], labels, left[node], most, buckets))
    return _traced(arcs, labels, limits)


def _least(arcs: Sequence[Arc], nodes: int, kinds: int) -> Array:
    """The least of every cost from each node to the last: [nodes, kinds], infinite for no way."""
    found = np.full((nodes, kinds), np.inf)
    found[-1] = 0.0
    for a in sorted(arcs, key=lambda a: -a.start):
        found[a.start] = np.minimum(found[a.start], found[a.end] + a.costs)
    return found


def _reached(
    arcs: Sequence[Arc],
    into: Sequence[int],
    labels: Sequence[_Labels],
    left: Array,
    most: Array,
    buckets: int | None,
) -> _Labels:
    """Labels worth keeping of one node."""
    harm, costs, arc, before = [], [], [], []
    for i in into:
        at = labels[arcs[i].start]
        harm.append(at.harm + arcs[i].harm)
        costs.append(at.costs + np.asarray(arcs[i].costs))
        arc.append(np.full(len(at.harm), i, dtype=np.intp))
        before.append(np.arange(len(at.harm)))
    if not harm:
        empty = np.zeros(0, dtype=np.intp)
        return _Labels(harm=np.zeros(0), costs=np.zeros((0, len(most))), arc=empty, before=empty)
    found = _Labels(
        harm=np.concatenate(harm), costs=np.concatenate(costs), arc=np.concatenate(arc),
        before=np.concatenate(before),
    )  # fmt: skip
    # sums in another order must not lose what fits exactly
    fits = np.all(found.costs + left <= most * (1 + 1e-12), axis=1)
    return _unbeaten(found.take(np.flatnonzero(fits)), most, buckets)


def _unbeaten(found: _Labels, most: Array, buckets: int | None) -> _Labels:
    """Those labels that no other equals or beats in harm and every cost."""
    costs = found.costs
    if buckets is not None:
        costs = np.floor(costs * (buckets / np.where(most > 0, most, 1.0)))
    order = np.lexsort((*costs.T[::-1], found.harm))
    kept: list[int] = []
    if costs.shape[1] == 1:
        # by harm, so a label is worth keeping where it is cheaper than all before it
        along = costs[order, 0]
        before = np.minimum.accumulate(np.concatenate([[np.inf], along[:-1]]))
        return found.take(order[along < before])
    for i in order:
        if not np.any(np.all(costs[kept] <= costs[i], axis=1)):
            kept.append(int(i))
    return found.take(np.array(kept, dtype=np.intp))


def _traced(arcs: Sequence[Arc], labels: Sequence[_Labels], limits: Sequence[float]) -> Path:
    last = labels[-1]
    if not len(last.harm):
        raise BudgetError(f"no way through the steps is within all of {list(limits)} at once")
    row = int(last.harm.argmin())
    harm, costs = float(last.harm[row]), last.costs[row]
    node, found = len(labels) - 1, []
    while node > 0:
        i = int(labels[node].arc[row])
        row = int(labels[node].before[row])
        node = arcs[i].start
        found.append(i)
    return Path(arcs=tuple(found[::-1]), harm=harm, costs=tuple(float(c) for c in costs))
