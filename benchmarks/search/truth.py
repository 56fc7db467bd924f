"""Truth: the best plan of every budget, by enumeration, and how far a search stays from it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from allot.errors import InputError
from allot.space import Point
from benchmarks.search.store import Enumeration

BUDGETS, DROP, KL = 16, 0.10, 1.0
# divergences below this count as this wherever a ratio or a logarithm is taken [nats]
FLOOR = 1e-9

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """The true front of one enumerated space.

    least, most: ends of the useful range of the bill.  budgets: upper bounds between them, both
    left out, evenly spaced in their logarithm, loose to tight [16].  best: index of the point of
    least mean divergence on the search samples within each [16].
    """

    enumeration: Enumeration
    least: float
    most: float
    budgets: Floats
    best: Indices

    @property
    def levels(self) -> list[dict[str, float]]:
        """The budgets as `Trials.levels` takes them."""
        return [{self.enumeration.bill: float(b)} for b in self.budgets]

    @property
    def optimal(self) -> Floats:
        """Least mean divergence within each budget [nats]: [16]."""
        return self.enumeration.search.means[self.best]

    def excess(self, points: Iterable[Point], *, held_out: bool = False) -> float:
        """Geometric mean over the budgets of divergence found / optimal; at least 1."""
        return float(np.exp(np.log(self.ratios(points, held_out=held_out)).mean()))

    def ratios(self, points: Iterable[Point], *, held_out: bool = False) -> Floats:
        """Divergence found / optimal at every budget: [16].

        found: that of the point of least search divergence within the budget; the largest
        divergence of the space where no point is.  held_out: plans are chosen by the search
        samples as before, the optimum alike, and compared on the held-out ones; this may fall
        below 1.
        """
        e = self.enumeration
        means = (e.held_out if held_out else e.search).means
        chosen = within(e, indices(e, points), self.budgets)
        found = np.where(chosen < 0, means.max(), means[chosen])
        ratio: Floats = np.maximum(found, FLOOR) / np.maximum(means[self.best], FLOOR)
        return ratio

    def hypervolume(self, points: Iterable[Point]) -> float:
        """Area that points dominate in (bill, log divergence), as a share of what all do.

        Within the useful range of the bill, and below e times the optimal divergence at its lower
        end, so that a plan close to that one counts.
        """
        e = self.enumeration
        return self._area(indices(e, points)) / self._area(np.arange(len(e.costs)))

    def _area(self, found: Indices) -> float:
        e = self.enumeration
        start = within(e, np.arange(len(e.costs)), np.array([self.least]))[0]
        reference = max(float(e.search.means[start]), FLOOR)
        found = found[e.costs[found] <= self.most]
        found = found[np.argsort(e.costs[found], kind="stable")]
        heights = 1 + np.log(reference / np.maximum(e.search.means[found], FLOOR))
        best = np.maximum.accumulate(np.maximum(heights, 0.0))
        edges = np.append(np.maximum(e.costs[found], self.least), self.most)
        return float((best * np.diff(edges)).sum())


def truth(e: Enumeration) -> Truth:
    """The true front of an enumeration.

    The useful range starts at the cheapest plan of the front that loses at most 10 points of the
    metric (or, where none does, has at most 1 nat) and ends at the mildest plan.  Raises
    InputError where nothing lies between.
    """
    order = front(e)
    lost = e.search.original_score - e.search.scores[order]
    useful = order[lost <= DROP]
    if not len(useful):
        useful = order[e.search.means[order] <= KL]
    most = float(e.costs[0])
    if not len(useful) or e.costs[useful].min() >= most:
        raise InputError(f"{e.family} of {e.network} ({e.variant}) has no useful range of costs")
    least = float(e.costs[useful].min())
    budgets = np.geomspace(most, least, BUDGETS + 2)[1:-1]
    best = within(e, np.arange(len(e.costs)), budgets)
    return Truth(enumeration=e, least=least, most=most, budgets=budgets, best=best)


def front(e: Enumeration) -> Indices:
    """Points that no cheaper or equal one beats on the search samples, by rising cost."""
    means = e.search.means
    order = np.lexsort((means, e.costs))
    before = np.concatenate([[np.inf], np.minimum.accumulate(means[order])[:-1]])
    return order[means[order] < before]


def indices(e: Enumeration, points: Iterable[Point]) -> Indices:
    """Where points stand in the enumeration: [points]."""
    return np.array([e.index(p) for p in points], dtype=np.int64)


def within(e: Enumeration, found: Indices, budgets: Floats) -> Indices:
    """Of some points, the one of least search divergence within every budget; -1 where none."""
    if not len(found):
        return np.full(len(budgets), -1, dtype=np.int64)
    order = found[np.argsort(e.search.means[found], kind="stable")]
    fits = e.costs[order][None, :] <= budgets[:, None]
    return np.where(fits.any(1), order[fits.argmax(1)], -1)


def known(trace: Sequence[tuple[float, Point]], passes: float) -> list[Point]:
    """The points of `Trials.trace` that were measured by the time `passes` F were spent."""
    return [p for spent, p in trace if spent <= passes + 1e-9]
