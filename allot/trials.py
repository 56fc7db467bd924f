"""Trials: every plan measured so far within a budget of passes, and the front they make.

A searcher is a function (trials, ...) that measures through them until it has nothing more to try
or `Spent` ends it; what it found is what the trials hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from allot.evaluate import Evaluator
from allot.front import Front, Measured, unbeaten
from allot.measure import Loss
from allot.solve.milp import smallest
from allot.space import Point, Space
from allot.table import Table

Limits = Mapping[str, float]


class Spent(Exception):
    """The passes that a search may spend are used up, or its time is; not an error."""


@dataclass(kw_only=True, eq=False)
class Trials:
    """What a searcher works on.

    bills: what plans cost.  originals: the same of the float original.  levels: the budgets at
    which a plan is wanted, loose to tight.  evaluations: F that may be spent in all, signals
    included.  plans: measured so far.  trace: (F spent when it was known, point), in order.
    out_of_time: asked before every measurement.
    """

    evaluator: Evaluator
    bills: Mapping[str, Table]
    originals: Mapping[str, float]
    levels: Sequence[Limits]
    evaluations: float = math.inf
    progress: Callable[[float], None] = lambda share: None
    out_of_time: Callable[[], bool] = lambda: False
    plans: dict[Point, Measured] = field(default_factory=dict)
    losses: dict[Point, Loss] = field(default_factory=dict)
    trace: list[tuple[float, Point]] = field(default_factory=list)

    @property
    def space(self) -> Space:
        return self.evaluator.space

    @property
    def left(self) -> float:
        """F that may still be spent."""
        return self.evaluations - self.evaluator.spent

    def measure(
        self, points: Sequence[Point], *, foretold: Sequence[tuple[float, float]] = ()
    ) -> list[Measured]:
        """The points measured on all samples, as one batch.

        foretold: per point, the divergence [nats] that a solver said and its relative gap.
        Raises Spent once not all of them could be paid; those that could are measured.
        """
        new = [p for p in dict.fromkeys(points) if p not in self.plans]
        paid = self._affordable(new, share=1.0)
        words = dict(zip(points, foretold, strict=True)) if foretold else {}
        for p, loss in zip(paid, self.evaluator.losses(paid), strict=True):
            self.losses[p] = loss
            self.plans[p] = self._measured(p, loss, *words.get(p, (math.nan, math.nan)))
            self.trace.append((self.evaluator.spent, p))
        if len(paid) < len(new) or self.out_of_time():
            raise Spent
        return [self.plans[p] for p in points]

    def screen(self, points: Sequence[Point], *, share: float) -> list[Loss]:
        """Losses of the points on the first share of the samples; raises Spent like `measure`."""
        if len(self._affordable(points, share=share)) < len(points) or self.out_of_time():
            raise Spent
        return self.evaluator.losses(points, share=share)

    def _affordable(self, points: Sequence[Point], *, share: float) -> list[Point]:
        found = list(points)
        # asked anew for every beginning: what a point replays may be of one that was left out
        while found and sum(self.evaluator.costs(found, share=share)) > self.left + 1e-9:
            found.pop()
        return found

    def _measured(self, point: Point, loss: Loss, predicted: float, gap: float) -> Measured:
        options = self.space.options(point)
        return Measured(
            point=point,
            labels={k: o.label for k, o in options.items()},
            bills={k: b.of(point) for k, b in self.bills.items()},
            divergence=loss.divergence,
            interval=loss.interval,
            metric=loss.metric,
            predicted=predicted,
            gap=gap,
            recovery=self.evaluator.recovery,
        )

    def least(self) -> dict[str, float]:
        """The smallest that every bill can be."""
        return {k: smallest(self.space.counts, b)[1] for k, b in self.bills.items()}

    def fits(self, point: Point, limits: Limits) -> bool:
        """Whether a point's bills lie within limits."""
        return all(self.bills[k].of(point) <= v for k, v in limits.items())

    def best(self, limits: Limits) -> Measured | None:
        """The measured plan of least divergence within limits, None without one."""
        within = [m for m in self.plans.values() if all(m.bills[k] <= limits[k] for k in limits)]
        return min(within, key=lambda m: m.divergence, default=None)

    def front(self) -> Front:
        """The measured plans that no other beats in divergence and bills."""
        points = unbeaten(list(self.plans.values()), sorted(self.bills))
        return Front(points=points, original=dict(self.originals))
