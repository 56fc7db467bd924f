"""Reach: the least that a bill can be, alone or within other limits."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from allot.errors import BudgetError
from allot.solve.branch import search
from allot.solve.case import Case, State
from allot.solve.rows import Limit
from allot.space import Point

CLOSE = 1e-9  # relative, where a largest sum of fractions is taken as the least
TURNS = 100


@dataclass(frozen=True, kw_only=True, eq=False)
class Reach:
    """case: whose allowed options hold.  always: limits that are not up for discussion (side
    conditions).  seconds: for each question."""

    case: Case
    always: tuple[Limit, ...]
    seconds: float

    def least(self, bill: Limit, others: Sequence[Limit]) -> tuple[Point, float] | None:
        """Where a bill is least within other limits, and that; None where those leave no point."""
        low, best = -math.inf, self._search(bill, 0, others, math.inf)
        if best is None or best.point is None:
            return None
        point, low = best.point, best.bound
        for _ in range(TURNS if len(bill.tables) > 1 else 0):
            value = bill.of(point)
            if value - low < 1 if bill.whole else value - low <= CLOSE * abs(value):
                break
            middle = (value + low) / 2
            middle = math.floor(middle) if bill.whole else middle
            at = max(range(len(bill.tables)), key=lambda k: bill.tables[k].of(point))
            found = self._search(bill, at, others, middle)
            if found is None:
                low = middle + 1 if bill.whole else middle
            elif found.point is None:
                break
            else:
                point, low = found.point, max(low, found.bound)
        return point, bill.of(point)

    def _search(self, bill: Limit, at: int, others: Sequence[Limit], most: float) -> State | None:
        """The least of one table of a bill, all of which are at `most`."""
        own = () if most == math.inf else (replace(bill, at=most),)
        limits = (*self.always, *others, *own)
        return search(
            replace(
                self.case,
                harm=bill.tables[at],
                bills=tuple(t for x in limits for t in x.tables),
                limits=np.array([x.at for x in limits for _ in x.tables]),
                floors=tuple(np.full(len(f), -np.inf) for f in self.case.floors),
                excluded=frozenset(),
                deadline=time.monotonic() + self.seconds,
                gap=0.0,
            )
        )


def unreachable(
    reach: Reach, limits: Sequence[Limit], describe: Callable[[str, float], str]
) -> BudgetError:
    """What to say of limits that no point meets: what each bill can reach, alone or together."""

    def least(x: Limit, others: Sequence[Limit]) -> float | None:
        found = reach.least(x, others)
        return None if found is None else found[1]

    alone = {x.name: v for x in limits if (v := least(x, ())) is not None}
    over = [x for x in limits if alone.get(x.name, -math.inf) > x.at]
    asked = " and ".join(f"{x.name} <= {describe(x.name, x.at)}" for x in limits)
    if len(alone) < len(limits) or not limits:
        return BudgetError("no plan meets the side conditions, whatever the budgets")
    if over:
        said = "; ".join(f"the smallest {n} is {describe(n, v)}" for n, v in alone.items())
        return BudgetError(f"no plan meets {asked}: {said}", smallest=alone)
    given = {x.name: least(x, [y for y in limits if y is not x]) for x in limits}
    if all((v := given[x.name]) is not None and v <= x.at for x in limits):
        return BudgetError(f"every plan that meets {asked} is excluded", smallest=alone)
    said = "; ".join(
        f"the smallest {n} within the other limits is {describe(n, v)}"
        if v is not None
        else f"the limits other than that of {n} leave no plan"
        for n, v in given.items()
    )
    reached = alone | {n: v for n, v in given.items() if v is not None}
    return BudgetError(f"no plan meets {asked} together: {said}", smallest=reached)
