"""Milp: the exact least harm within budgets, as a multiple-choice program over a space."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from allot.errors import JobError
from allot.solve.branch import search
from allot.solve.case import Case, State
from allot.solve.problem import Index
from allot.solve.reach import Reach, unreachable
from allot.solve.rows import Limit, Row, limit
from allot.space import Point
from allot.table import Array, Table

SECONDS = 20.0


@dataclass(frozen=True, kw_only=True)
class Solution:
    """A point within the limits.

    harm, bills: of the point, by the tables.  bound: proven lower bound on the harm of every
    point within the limits.  gap: (harm - bound) / |harm|.  seconds: wall time taken.
    """

    point: Point
    harm: float
    bills: Mapping[str, float]
    bound: float
    gap: float
    seconds: float


def solve(
    counts: tuple[int, ...],
    *,
    harm: Table,
    bills: Mapping[str, Table],
    limits: Mapping[str, float],
    floor: bool = True,
    fixed: Mapping[int, int] | None = None,
    excluded: Sequence[Point] = (),
    rows: Sequence[Row] = (),
    time_limit: float = SECONDS,
    gap: float = 1e-3,
    nodes: int | None = None,
    describe: Callable[[str, float], str] | None = None,
) -> Solution:
    """The point of least harm whose bills are within the limits.

    counts: options per choice.  bills without a limit are reported only.  floor: the harm of a
    point is no less than the largest harm that any option of it has alone (`harm.single`); a
    guard against pair terms that promise too much.  fixed: choice -> option.  excluded: points
    not to be returned.  rows: side conditions.  gap: relative, at which to stop.  nodes: most
    that each branch and bound looks at; unlike time_limit it gives every machine the same point.
    describe(bill, value): how a value reads in a message.  Limits hold by the tables' own
    sums, never within a tolerance.

    Raises BudgetError, which names what can be reached, where no point meets the limits, and
    JobError where none was found in time.
    """
    start = time.monotonic()
    asked = [limit(name, bills[name], limits[name]) for name in limits]
    always = tuple(limit("", r.table(counts), r.most) for r in rows)
    case = _case(
        counts, harm=harm, limits=(*asked, *always), fixed=fixed or {},
        floors=_floors(counts, harm if floor else None), deadline=start + time_limit,
    )  # fmt: skip
    case = replace(case, excluded=frozenset(excluded), gap=gap, nodes=nodes)
    found = search(case)
    if found is None:
        reach = Reach(case=case, always=always, seconds=time_limit)
        raise unreachable(reach, asked, describe or _plain)
    return _solution(found, bills, seconds=time.monotonic() - start)


def smallest(
    counts: tuple[int, ...],
    bill: Table,
    fixed: Mapping[int, int] | None = None,
    *,
    time_limit: float = SECONDS,
) -> tuple[Point, float]:
    """The point of the least bill and its value; fixed: choice -> option."""
    case = _case(
        counts,
        harm=bill,
        limits=(),
        fixed=fixed or {},
        floors=_floors(counts, None),
        deadline=time.monotonic() + time_limit,
    )
    whole = limit("", bill, math.inf)
    found = Reach(case=case, always=(), seconds=time_limit).least(whole, ())
    if found is None:
        raise JobError(f"the least bill was not found in {time_limit:.3g} s; allow more time")
    return found


def _case(
    counts: Sequence[int],
    *,
    harm: Table,
    limits: Sequence[Limit],
    fixed: Mapping[int, int],
    floors: tuple[Array, ...],
    deadline: float,
) -> Case:
    return Case(
        harm=harm,
        bills=tuple(t for x in limits for t in x.tables),
        limits=np.array([x.at for x in limits for _ in x.tables]),
        allowed=_allowed(counts, fixed),
        floors=floors,
        excluded=frozenset(),
        deadline=deadline,
        gap=0.0,
    )


def _solution(found: State, bills: Mapping[str, Table], *, seconds: float) -> Solution:
    if found.point is None:
        raise JobError(f"no plan within the budgets was found in {seconds:.3g} s; allow more time")
    return Solution(
        point=found.point,
        harm=found.harm,
        bills={name: table.of(found.point) for name, table in bills.items()},
        bound=found.bound,
        gap=(found.harm - found.bound) / max(abs(found.harm), 1e-300),
        seconds=seconds,
    )


def _allowed(counts: Sequence[int], fixed: Mapping[int, int]) -> tuple[Index, ...]:
    return tuple(
        np.array([fixed[i]], dtype=np.intp) if i in fixed else np.arange(n)
        for i, n in enumerate(counts)
    )


def _floors(counts: Sequence[int], harm: Table | None) -> tuple[Array, ...]:
    if harm is None:
        return tuple(np.full(n, -np.inf) for n in counts)
    found = tuple(np.zeros(n) for n in counts)
    for t in harm.terms:
        if len(t.at) == 1:
            found[t.at[0]][:] += t.values
    return found


def _plain(name: str, value: float) -> str:
    return f"{value:.10g}"
