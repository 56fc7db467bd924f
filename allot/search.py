"""Search: solve exactly, measure what was chosen, correct the tables, solve again."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from allot.errors import BudgetError
from allot.front import Front, Measured, unbeaten
from allot.measure import Meter
from allot.recover import STEADY, Recovery
from allot.solve.milp import Solution, smallest, solve
from allot.space import Point, Space
from allot.table import Table, Term

# prior spread of the factor by which an option's harm is off: of all together, and of each
_COMMON, _OWN, _NOISE = 0.7, 0.5, 0.1
# relative; tables are surer than this only where nothing was measured yet
_GAP = 5e-3


@dataclass(frozen=True, kw_only=True)
class Effort:
    """levels: budgets solved in the first round; rounds: of correction after it; extra: budgets
    solved near the asked one in each of them; seconds: limit of one solve."""

    levels: int = 14
    rounds: int = 2
    extra: int = 6
    seconds: float = 15.0


EFFORT = Effort()


class Search:
    """The loop over one space; `plans` holds every measured plan with what the tables foretold."""

    def __init__(
        self,
        space: Space,
        meter: Meter,
        *,
        harm: Table,
        bills: Mapping[str, Table],
        limits: Mapping[str, float],
        originals: Mapping[str, float],
        recovery: Recovery = STEADY,
        effort: Effort = EFFORT,
        progress: Callable[[float], None] = lambda share: None,
        out_of_time: Callable[[], bool] = lambda: False,
    ) -> None:
        self.bank = meter.bank
        self.space, self.meter, self.recovery, self.effort = space, meter, recovery, effort
        self.prior, self.harm, self.bills, self.limits = harm, harm, dict(bills), dict(limits)
        self.progress, self.out_of_time = progress, out_of_time
        self.plans: dict[Point, Measured] = {}
        self.originals = dict(originals)
        self.restrictions = restrictions(space)
        self._least = {k: smallest(space.counts, b)[1] for k, b in self.bills.items()}

    def run(self) -> Front:
        """Every round's plans measured; the front of them all, by ascending divergence."""
        total = self.effort.levels + self.effort.rounds * self.effort.extra
        for limits in self.levels():
            try:
                self.measure(self.solve(limits))
            except BudgetError:
                continue  # every bill can be that small, but not all of them at once
            self.progress(min(1.0, len(self.plans) / total))
            if self.out_of_time():
                break
        for _ in range(self.effort.rounds):
            if self.out_of_time():
                break
            self.correct()
            self.near(self.limits or self._middle())
            self.progress(min(1.0, len(self.plans) / total))
        return self.front()

    def near(self, limits: Mapping[str, float]) -> None:
        """Measures the best new plans at limits and a little below, and that of every axis alone.

        A single axis is a plan of the joint space too: where the tables misjudge how axes meet,
        the joint search is never worse than the better of them.
        """
        for fixed in self.restrictions:
            try:
                self.measure(self.solve(limits, fixed=fixed))
            except BudgetError:
                continue  # one axis alone need not reach every budget
        for k in range(self.effort.extra):
            share = 1 - 0.012 * (k // 2)
            scaled = {b: max(v * share, self._least[b] * 1.001) for b, v in limits.items()}
            try:
                self.measure(self.solve(scaled, new=True))
            except BudgetError:
                return  # every plan within these limits is measured already
            if self.out_of_time():
                return

    def levels(self) -> list[dict[str, float]]:
        """Limits from loose to tight through the asked ones, on a log scale."""
        names = list(self.limits) or ["size"]
        n = self.effort.levels
        inner = max(1, round(n * 0.4)) if self.limits else 0
        found = []
        for i in range(n - inner):
            share = i / max(1, n - inner - 1)
            goal = {k: self.limits.get(k, self._least[k] * 1.05) for k in names}
            found.append({k: _between(self.originals[k] * 0.98, goal[k], share) for k in names})
        for i in range(1, inner + 1):
            share = i / (inner + 0.5)
            found.append({k: _between(self.limits[k], self._least[k] * 1.02, share) for k in names})
        return found

    def _middle(self) -> dict[str, float]:
        return {"size": math.sqrt(self.originals["size"] * self._least["size"])}

    def solve(
        self,
        limits: Mapping[str, float],
        *,
        new: bool = False,
        fixed: Mapping[int, int] | None = None,
    ) -> Solution:
        """The plan of least foretold harm within limits; new: that was not measured yet."""
        return solve(
            self.space.counts,
            harm=self.harm,
            bills=self.bills,
            limits=limits,
            fixed=fixed,
            excluded=tuple(self.plans) if new else (),
            time_limit=self.effort.seconds,
            gap=2 * _GAP if new else _GAP,
        )

    def measure(self, found: Solution) -> Measured:
        """The plan measured after recovery; the solver's word for it is kept beside."""
        if found.point not in self.plans:
            options = self.space.options(found.point)
            loss = self.meter.loss(options, recovery=self.recovery)
            self.plans[found.point] = Measured(
                point=found.point,
                labels={k: o.label for k, o in options.items()},
                bills={k: b.of(found.point) for k, b in self.bills.items()},
                divergence=loss.divergence,
                interval=loss.interval,
                metric=loss.metric,
                predicted=found.harm,
                gap=found.gap,
                recovery=self.recovery.name,
            )
        return self.plans[found.point]

    def front(self) -> Front:
        keys = sorted(self.bills)
        points = unbeaten(list(self.plans.values()), keys)
        return Front(points=points, original=self.originals)

    def correct(self) -> None:
        """Tables moved to what was measured (see `corrected`)."""
        points = list(self.plans)
        self.harm = corrected(self.prior, points, [self.plans[p].divergence for p in points])


def restrictions(space: Space) -> list[dict[int, int]]:
    """For every axis of several: the choices of all others at their mildest option.

    Mildest is the original for structure (level 0) and the most precise format otherwise.
    """
    axes = [type(c.options[0]).__module__ for c in space.choices]
    mild = [min(c.options[0].level, len(c.options) - 1, 1) for c in space.choices]
    names = sorted(set(axes)) if len(set(axes)) > 1 else []
    return [{i: mild[i] for i, a in enumerate(axes) if a != axis} for axis in names]


def _between(a: float, b: float, share: float) -> float:
    return math.exp((1 - share) * math.log(a) + share * math.log(b))


def _floor(table: Table, point: Point) -> float:
    """The largest harm that an option of the point has alone: what the solver floors with too."""
    return max((float(t.values[point[t.at[0]]]) for t in table.terms if len(t.at) == 1), default=0)


def corrected(table: Table, points: Sequence[Point], measured: Sequence[float]) -> Table:
    """The table with every value scaled so that the sums meet what was measured, Bayes' way.

    f = sum_t h_t (1 + e_t) with e_t ~ N(0, common + own variance) and relative noise; e is shared
    by all values of common cause and own to each (term, options).  The posterior mean of e scales
    the table; no value changes its sign.
    """
    if not points:
        return table
    used = sorted(
        {(k, tuple(p[i] for i in t.at)) for p in points for k, t in enumerate(table.terms)}
    )
    column = {key: c for c, key in enumerate(used)}
    foretold = np.array([max(table.of(p), _floor(table, p), 1e-12) for p in points])
    share = np.zeros((len(points), len(used)))
    for r, p in enumerate(points):
        for k, t in enumerate(table.terms):
            key = tuple(p[i] for i in t.at)
            share[r, column[k, key]] += t.values[key] / foretold[r]
    prior = _OWN**2 * np.eye(len(used)) + _COMMON**2
    residual = np.asarray(measured) / foretold - 1
    noise = np.diag((_NOISE * np.maximum(np.asarray(measured) / foretold, 0.1)) ** 2)
    gain = prior @ share.T @ np.linalg.inv(share @ prior @ share.T + noise)
    e = gain @ residual
    common = float(np.mean(e))  # options never tried move with the rest
    terms = []
    for k, t in enumerate(table.terms):
        factor = np.full(t.values.shape, 1 + common)
        for (kk, key), c in column.items():
            if kk == k:
                factor[key] = 1 + e[c]
        terms.append(Term(at=t.at, values=t.values * np.clip(factor, 0.05, 20.0)))
    return replace(table, terms=tuple(terms), origin=f"{table.origin}, corrected by measurement")
