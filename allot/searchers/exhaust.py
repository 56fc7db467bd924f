"""Exhaust: the plan of least foretold harm within limits, exactly, whatever the space's size.

Small spaces are looked at point by point, each table worked out once on all of them; larger ones
are solved as a mixed-integer program. Both are exact, so the size only decides the time.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from allot.errors import BudgetError
from allot.solve.milp import solve
from allot.space import Point
from allot.table import Array, Table, Term
from allot.trials import Limits, Trials

Index = NDArray[np.intp]

# points of a space that is looked at as a whole
MOST = 20_000


@dataclass(frozen=True, kw_only=True)
class Choice:
    """A point chosen by a table.  harm: what the table foretells.  gap: relative, of the solver."""

    point: Point
    harm: float
    gap: float

    @property
    def foretold(self) -> tuple[float, float]:
        """As `Trials.measure` takes it."""
        return self.harm, self.gap


@dataclass(frozen=True, kw_only=True, eq=False)
class Grid:
    """All points of a small space with their bills: points [m, choices], bills name -> [m]."""

    counts: tuple[int, ...]
    points: Index
    bills: Mapping[str, Array]

    def within(self, limits: Limits) -> NDArray[np.bool_]:
        """Which points meet the limits: [m]."""
        fits = np.ones(len(self.points), dtype=bool)
        for name, limit in limits.items():
            fits &= self.bills[name] <= limit
        return fits

    def at(self, point: Sequence[int]) -> int:
        """Where a point stands."""
        return int(np.ravel_multi_index(tuple(point), self.counts))


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """One table to be made small within limits.

    grid, values: all points and what the table says of them [m]; None where there are too many.
    """

    trials: Trials
    table: Table
    grid: Grid | None
    values: Array | None
    seconds: float


def told(table: Table, points: Index) -> Array:
    """What a table says of points [m, choices]: [m].

    To the last bit what `table.of` says, as the terms are added in the same order.
    """

    def summed(terms: Sequence[Term]) -> Array:
        total = np.zeros(len(points))
        for t in terms:
            total += t.values[tuple(points[:, i] for i in t.at)]
        return total

    peaks = [summed(terms) for terms in table.peaks]
    found: Array = table.constant + summed(table.terms) + (np.max(peaks, axis=0) if peaks else 0.0)
    return found


def grid(trials: Trials) -> Grid | None:
    """All points with their bills, None where there are more than `MOST`."""
    counts = trials.space.counts
    if math.prod(counts) > MOST:
        return None
    points = np.stack([i.ravel() for i in np.indices(counts)], axis=1)
    bills = {k: told(b, points) for k, b in trials.bills.items()}
    return Grid(counts=counts, points=points, bills=bills)


def program(
    trials: Trials, table: Table, *, within: Grid | None = None, seconds: float = 20.0
) -> Program:
    """What is needed to solve a table again and again.

    within: the grid, where it is known already.  seconds: limit of one mixed-integer program.
    Pair terms held as vectors are written out, all of them in a small space and three per choice
    in a large one, of which more cannot be solved to the end.
    """
    counts = trials.space.counts
    known = within or grid(trials)
    full = table.with_pairs(len(counts) ** 2 if known else 3 * len(counts))
    values = told(full, known.points) if known else None
    return Program(trials=trials, table=full, grid=known, values=values, seconds=seconds)


def least(task: Program, limits: Limits, *, excluded: Sequence[Point] = ()) -> Choice | None:
    """The point of least harm within limits that is not excluded, None where there is none."""
    if task.grid is not None and task.values is not None:
        free = task.grid.within(limits)
        for p in excluded:
            free[task.grid.at(p)] = False
        if not free.any():
            return None
        at = int(np.argmin(np.where(free, task.values, np.inf)))
        return Choice(point=_tuple(task.grid.points[at]), harm=float(task.values[at]), gap=0.0)
    try:
        found = solve(
            task.trials.space.counts,
            harm=task.table,
            bills=task.trials.bills,
            limits=limits,
            floor=False,
            excluded=tuple(excluded),
            time_limit=task.seconds,
        )
    except BudgetError:
        return None
    return Choice(point=found.point, harm=found.harm, gap=found.gap)


def cheapest(trials: Trials, table: Table) -> list[Choice | None]:
    """For every level the plan of least harm by the table, None where no plan meets it."""
    task = program(trials, table)
    return [least(task, limits) for limits in trials.levels]


def spread(n: int) -> list[int]:
    """0 to n-1, so ordered that every beginning is spread out: the last, the first, the middle.

    The tightest level comes first: its plan meets all others, so that none stays without one.
    """
    order = [n - 1, 0] if n > 1 else list(range(n))
    while len(order) < n:
        marks = sorted(order)
        order += [(a + b) // 2 for a, b in pairwise(marks) if b - a > 1]
    return order


def between(levels: Sequence[Limits], parts: int) -> list[Limits]:
    """The limits that divide every step from level to level into parts, without the levels."""
    found: list[Limits] = []
    for a, b in pairwise(levels):
        for j in range(1, parts):
            found.append({k: a[k] + (b[k] - a[k]) * j / parts for k in a})
    return found


def _tuple(row: Index) -> Point:
    return tuple(int(i) for i in row)
