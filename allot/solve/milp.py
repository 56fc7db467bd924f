"""Milp: the exact least harm within budgets, as a multiple-choice program over a space."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from allot.errors import BudgetError, JobError
from allot.solve.branch import Case, State, search
from allot.solve.problem import Index
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
    time_limit: float = SECONDS,
    gap: float = 1e-3,
    describe: Callable[[str, float], str] | None = None,
) -> Solution:
    """The point of least harm whose bills are within the limits.

    counts: options per choice.  bills without a limit are reported only.  floor: the harm of a
    point is no less than the largest harm that any option of it has alone (`harm.single`); a
    guard against pair terms that promise too much.  fixed: choice -> option.  excluded: points
    not to be returned.  gap: relative, at which to stop.  describe(bill, value): how a value
    reads in a message.  Limits hold by the tables' own sums, never within a tolerance.

    Raises BudgetError, which names what can be reached, where no point meets the limits, and
    JobError where none was found in time.
    """
    start = time.monotonic()
    names = tuple(limits)
    case = Case(
        harm=harm,
        bills=tuple(bills[name] for name in names),
        limits=np.array([_whole(bills[name], limits[name]) for name in names]),
        allowed=_allowed(counts, fixed or {}),
        floors=_floors(counts, harm if floor else None),
        excluded=frozenset(excluded),
        deadline=start + time_limit,
        gap=gap,
    )
    found = search(case)
    if found is None:
        raise _unreachable(case, names, limits, describe or _plain, time_limit)
    return _solution(found, bills, seconds=time.monotonic() - start)


def smallest(
    counts: tuple[int, ...],
    bill: Table,
    fixed: Mapping[int, int] | None = None,
    *,
    time_limit: float = SECONDS,
) -> tuple[Point, float]:
    """The point of the least bill and its value; fixed: choice -> option."""
    found = solve(
        counts,
        harm=bill,
        bills={},
        limits={},
        floor=False,
        fixed=fixed,
        time_limit=time_limit,
        gap=0.0,
    )
    return found.point, found.harm


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
    return tuple(harm.single(i, n) for i, n in enumerate(counts))


def _whole(bill: Table, limit: float) -> float:
    """The limit, rounded down where the bill counts whole things."""
    numbers = [np.asarray(bill.constant), *(t.values for t in bill.terms)]
    return float(np.floor(limit)) if all((np.floor(v) == v).all() for v in numbers) else limit


def _plain(name: str, value: float) -> str:
    return f"{value:.10g}"


def _unreachable(
    case: Case,
    names: Sequence[str],
    limits: Mapping[str, float],
    describe: Callable[[str, float], str],
    time_limit: float,
) -> BudgetError:
    """What to say of limits that no point meets: what each bill can reach, alone or together."""

    def least(k: int, others: Sequence[int]) -> float | None:
        """The least of bill k with the limits of some others, None where those have no point."""
        alone = replace(
            case,
            harm=case.bills[k],
            bills=tuple(case.bills[j] for j in others),
            limits=case.limits[list(others)],
            floors=tuple(np.full(len(f), -np.inf) for f in case.floors),
            excluded=frozenset(),
            deadline=time.monotonic() + time_limit,
            gap=0.0,
        )
        found = search(alone)
        return None if found is None or found.point is None else found.harm

    alone = {n: v for k, n in enumerate(names) if (v := least(k, ())) is not None}
    over = [n for n, v in alone.items() if v > limits[n]]
    asked = " and ".join(f"{n} <= {describe(n, limits[n])}" for n in names)
    if over:
        said = "; ".join(f"the smallest {n} is {describe(n, v)}" for n, v in alone.items())
        return BudgetError(f"no plan meets {asked}: {said}", smallest=alone)
    given = {n: least(k, [j for j in range(len(names)) if j != k]) for k, n in enumerate(names)}
    if all(v is not None and v <= limits[n] for n, v in given.items()):
        return BudgetError(f"every plan that meets {asked} is excluded", smallest=alone)
    said = "; ".join(
        f"the smallest {n} within the other limits is {describe(n, v)}"
        if v is not None
        else f"the limits other than that of {n} leave no plan"
        for n, v in given.items()
    )
    reached = alone | {n: v for n, v in given.items() if v is not None}
    return BudgetError(f"no plan meets {asked} together: {said}", smallest=reached)
