"""Program: a problem as rows and columns for HiGHS, scaled."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array, csr_array, vstack

from allot.solve.descend import Limits
from allot.solve.joint import Columns, columns, marginals
from allot.solve.lagrange import free_of_charge, margins
from allot.solve.problem import Index, Problem
from allot.space import Point
from allot.table import Array

CLOSE = 1e-11  # by which a floor must lie above a sum, relative, to be more than rounding


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """min cost @ z over z = (x per option, y per joint class, excess of floor over sum, sum).

    z >= 0, but for the sum.  ties @ z = tied; rows @ z <= room: budgets, floors, exclusions, then
    (from row `joint`) what ties pairs to their options.  shift, span: harm = shift + span *
    (cost @ z).  units: of the budget rows, bill per unit.
    """

    cost: Array
    ties: csr_array
    tied: Array
    rows: csr_array
    room: Array
    shift: float
    span: float
    units: Array
    floored: Index
    n_x: int
    joint: int

    def harm(self, objective: float) -> float:
        """The harm that a value of the objective stands for."""
        return self.shift + self.span * objective


def build(problem: Problem, limits: Limits, *, span: float, base: float, floored: Index) -> Program:
    """The linear program of a problem; only x need be whole.

    span: harm that counts as 1.  base: a
    lower bound on the harm, whose objective is to be 1: relative gaps need a zero far away.
    floored: the floors that are to hold.
    """
    made = columns(problem)
    table = np.concatenate([made.table, np.zeros((len(made.table), 2))], axis=1)
    width, starts = table.shape[1], made.starts
    budgets, room, units = _budgets(table[1:], limits.at - made.constant[1:], starts)
    equal, most, most_room = marginals(problem, made, width)
    ties, tied = _ties(equal, starts, table[0] / span if len(floored) else None)
    floors, floor_room = _floors(problem, made, floored, width, span)
    cuts, cut_room = _cuts(problem, limits.excluded, starts, width)
    cost = table[0] / span
    cost[-2] = 1.0  # in spans
    offset = 1.0 - (base - float(made.constant[0])) / span
    cost[: starts[1]] += offset  # exactly one of these is taken
    return Program(
        cost=cost,
        ties=ties,
        tied=tied,
        rows=csr_array(vstack([csr_array(np.concatenate([budgets, floors, cuts])), most])),
        room=np.concatenate([room, floor_room, cut_room, most_room]),
        shift=float(made.constant[0]) - span * offset,
        span=span,
        units=units,
        floored=floored,
        n_x=int(starts[-1]),
        joint=len(room) + len(floor_room) + len(cut_room),
    )


def _ties(equal: csr_array, starts: Index, cost: Array | None) -> tuple[csr_array, Array]:
    """Rows: one option per choice; joint classes sum to the options of each class; the sum.

    cost: where floors need the sum as a column: one dense row instead of one for every floor.
    """
    width, n = equal.shape[1], len(starts) - 1
    parts = (np.ones(starts[-1]), (np.repeat(np.arange(n), np.diff(starts)), np.arange(starts[-1])))
    rows = [coo_array(parts, shape=(n, width)), equal]
    if cost is not None:
        total = cost.copy()
        total[-1] = -1.0
        rows.append(csr_array(total[None]))
    tied = np.zeros(sum(r.shape[0] for r in rows))
    tied[:n] = 1.0
    return csr_array(vstack(rows)), tied


def _budgets(bills: Array, room: Array, starts: Index) -> tuple[Array, Array, Array]:
    """Rows, right sides and units of the budgets, least option taken off each choice."""
    rows = bills.copy()
    for lo, hi in itertools.pairwise(starts):
        least = rows[:, lo:hi].min(axis=1)
        rows[:, lo:hi] -= least[:, None]
        room = room - least
    widest = np.abs(rows).max(axis=1, initial=0.0)
    units = np.maximum(np.abs(room), widest / 10)
    units[units == 0] = 1.0
    return rows / units[:, None], room / units, units


def floored(problem: Problem, limits: Limits, base: float) -> Index:
    """Free choices whose floor may lie above the sum; last the decided ones, as len(free).

    A floor below a lower bound on the harm can be left out: it could only decide the harm of a
    point that reaches the bound, which is optimal either way.
    """
    least, given = margins(problem, free_of_charge(problem), limits.at)
    known = max(problem.floor_base, base)
    rows = [
        c
        for c, (floor, sums) in enumerate(zip(problem.floors, given, strict=True))
        if (floor > np.maximum(sums, known) + CLOSE * np.abs(floor)).any()
    ]
    if problem.floor_base > max(least, base):
        rows.append(len(problem.free))
    return np.array(rows, dtype=np.intp)


def _floors(
    problem: Problem, made: Columns, floored: Index, width: int, span: float
) -> tuple[Array, Array]:
    """Rows: floor - sum - excess <= constant, in spans."""
    rows = np.zeros((len(floored), width))
    rows[:, -2:] = -1.0
    room = np.full(len(rows), made.constant[0])
    for r, c in enumerate(floored):
        if c == len(problem.free):
            room[r] -= problem.floor_base
        else:
            rows[r, made.starts[c] : made.starts[c + 1]] = problem.floors[c] / span
    return rows, room / span


def _cuts(
    problem: Problem, excluded: Iterable[Point], starts: Index, width: int
) -> tuple[Array, Array]:
    """No-good rows: at least one choice differs from each excluded point."""
    rows = []
    for point in excluded:
        index = problem.index(point)
        decided = set(range(len(point))) - set(problem.free)
        if (index >= 0).all() and all(point[i] == problem.base[i] for i in decided):
            row = np.zeros(width)
            row[starts[:-1] + index] = 1.0
            rows.append(row)
    room = np.full(len(rows), len(problem.free) - 1.0)
    return np.array(rows).reshape(len(rows), width), room
