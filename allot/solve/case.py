"""Case: what is asked of the solver, and the state of what is known so far."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from allot.solve.problem import Index
from allot.space import Point
from allot.table import Array, Table

INSIDE = 1 - 1e-9  # of the gap asked for, so that rounding does not lift it above


@dataclass(frozen=True, kw_only=True, eq=False)
class Case:
    """What is asked: least harm over the allowed options [choices], bills within limits.

    floors: per choice [n], -inf without a guard.  deadline: on the monotonic clock.  gap:
    relative to the harm.  nodes: most that one run of HiGHS looks at, None for any number.
    """

    harm: Table
    bills: tuple[Table, ...]
    limits: Array
    allowed: tuple[Index, ...]
    floors: tuple[Array, ...]
    excluded: frozenset[Point]
    deadline: float
    gap: float
    nodes: int | None = None

    def value(self, point: Sequence[int]) -> float:
        """Harm of a full point: the sum of the table, no less than the highest floor."""
        floors = (float(f[i]) for f, i in zip(self.floors, point, strict=True))
        return max(self.harm.of(point), *floors, -np.inf)

    def fits(self, point: Point) -> bool:
        """Whether a full point holds every limit by the tables themselves (whole numbers up to
        2^53 are added exactly) and is not excluded."""
        within = all(b.of(point) <= m for b, m in zip(self.bills, self.limits, strict=True))
        return within and point not in self.excluded

    @property
    def seconds(self) -> float:
        return self.deadline - time.monotonic()


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """What is known so far: best point with its harm, bound on all, points found to break a
    limit by less than the solver can see."""

    point: Point | None = None
    harm: float = np.inf
    bound: float = -np.inf
    broken: frozenset[Point] = frozenset()

    def tried(self, case: Case, point: Point) -> State:
        """The state after a point: better, no better, or one that must not come again."""
        if not case.fits(point):
            return replace(self, broken=self.broken | {point})
        harm = case.value(point)
        return replace(self, point=point, harm=harm) if harm < self.harm else self

    def raised(self, bound: float) -> State:
        """The state with a further lower bound on every feasible point."""
        return replace(self, bound=min(max(self.bound, bound), self.harm))

    def aim(self, case: Case) -> float:
        """Points of at least this harm are of no interest."""
        return self.harm - INSIDE * case.gap * abs(self.harm) if self.point is not None else np.inf

    def done(self, case: Case) -> bool:
        return self.bound >= self.aim(case) or case.seconds <= 0
