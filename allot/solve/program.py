"""Program: a problem as rows and columns for HiGHS, scaled, and what comes back of it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, linprog, milp
from scipy.sparse import coo_array, csr_array

from allot.solve.descend import Limits
from allot.solve.lagrange import Dual, free_of_charge, margins
from allot.solve.problem import Index, Problem
from allot.space import Point
from allot.table import Array

TOLERANCE = 2e-6  # what the solver's bound is lowered by, in spans


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """min cost @ z over z = (x per option, y per joint class, excess of floor over sum, sum).

    z >= 0, but for the sum.  ties @ z = tied; rows @ z <= room: budgets, floors, exclusions, in
    this order.  shift, span: harm = shift + span * (cost @ z).  units: of the budget rows, bill
    per unit.
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

    def harm(self, objective: float) -> float:
        """The harm that a value of the objective stands for."""
        return self.shift + self.span * objective


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """What the solver says. x: of the best point found [options], empty without one.

    bound: on the harm of every point.  feasible: False where it is proven that there is none.
    """

    x: Array
    bound: float
    feasible: bool


def build(problem: Problem, limits: Limits, *, span: float, base: float) -> Program:
    """The linear program of a problem; joint classes enter by their marginals.

    For whole x, y is forced to the product of its marginals, so only x need be whole
    (Sherali & Adams 1990, the local-marginal rows).  span: harm that counts as 1.  base: a
    lower bound on the harm, whose objective is to be 1: relative gaps need a zero far away.
    """
    sizes = [s.shape[1] for s in problem.single]
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.intp)
    table = _columns(problem)
    table = np.concatenate([table, np.zeros((len(table), 2))], axis=1)
    width = table.shape[1]
    budgets, room, units = _budgets(problem, table[1:], limits.at, starts)
    floored = _floored(problem, limits, base)
    floors, floor_room = _floors(problem, floored, starts, width, span)
    cuts, cut_room = _cuts(problem, limits.excluded, starts, width)
    cost = table[0] / span
    ties, tied = _ties(problem, starts, cost)
    cost[-2] = 1.0  # in spans
    offset = 1.0 - (base - float(problem.constant[0])) / span
    cost[: sizes[0]] += offset  # exactly one of these is taken
    return Program(
        cost=cost,
        ties=ties,
        tied=tied,
        rows=csr_array(np.concatenate([budgets, floors, cuts])),
        room=np.concatenate([room, floor_room, cut_room]),
        shift=float(problem.constant[0]) - span * offset,
        span=span,
        units=units,
        floored=floored,
        n_x=int(starts[-1]),
    )


def _columns(problem: Problem) -> Array:
    """The tables' coefficients, options first, then joint classes: [K, columns]."""
    k = len(problem.constant)
    parts = [*problem.single, *(b.values.reshape(k, -1) for b in problem.blocks)]
    return np.concatenate([np.zeros((k, 0)), *parts], axis=1)


def _ties(problem: Problem, starts: Index, cost: Array) -> tuple[csr_array, Array]:
    """Rows: one option per choice; joint classes sum to the options of each class; the sum."""
    row: list[Index] = []
    col: list[Index] = []
    val: list[Array] = []

    def put(rows: Index, cols: Index, value: float | Array) -> None:
        row.append(rows)
        col.append(cols)
        val.append(np.full(len(cols), value))

    count = len(problem.free)
    put(np.repeat(np.arange(count), np.diff(starts)), np.arange(starts[-1]), 1.0)
    at = int(starts[-1])
    for b in problem.blocks:
        shape = b.values.shape[1:]
        cells = np.indices(shape).reshape(len(shape), -1)
        for d, (a, classes) in enumerate(zip(b.at, b.classes, strict=True)):
            put(count + cells[d], at + np.arange(cells.shape[1]), 1.0)
            put(count + classes, starts[a] + np.arange(len(classes)), -1.0)
            count += shape[d]
        at += cells.shape[1]
    # one dense row instead of one for every floor
    put(np.full(at, count), np.arange(at), cost[:at])
    put(np.array([count]), np.array([at + 1]), -1.0)
    count += 1
    tied = np.zeros(count)
    tied[: len(problem.free)] = 1.0
    parts = (np.concatenate(val), (np.concatenate(row), np.concatenate(col)))
    return csr_array(coo_array(parts, shape=(count, len(cost)))), tied


def _budgets(
    problem: Problem, bills: Array, limits: Array, starts: Index
) -> tuple[Array, Array, Array]:
    """Rows, right sides and units of the budgets, least option taken off each choice."""
    rows = bills.copy()
    room = limits - problem.constant[1:]
    for lo, hi in itertools.pairwise(starts):
        least = rows[:, lo:hi].min(axis=1)
        rows[:, lo:hi] -= least[:, None]
        room = room - least
    widest = np.abs(rows).max(axis=1, initial=0.0)
    units = np.maximum(np.abs(room), widest / 10)
    units[units == 0] = 1.0
    return rows / units[:, None], room / units, units


def _floored(problem: Problem, limits: Limits, base: float) -> Index:
    """Free choices whose floor may lie above the sum; last the decided ones, as len(free).

    A floor below a lower bound on the harm can be left out: it could only decide the harm of a
    point that reaches the bound, which is optimal either way.
    """
    least, given = margins(problem, free_of_charge(problem), limits.at)
    known = max(problem.floor_base, base)
    rows = [
        c
        for c, (floor, sums) in enumerate(zip(problem.floors, given, strict=True))
        if (floor > np.maximum(sums, known)).any()
    ]
    if problem.floor_base > max(least, base):
        rows.append(len(problem.free))
    return np.array(rows, dtype=np.intp)


def _floors(
    problem: Problem, floored: Index, starts: Index, width: int, span: float
) -> tuple[Array, Array]:
    """Rows: floor - sum - excess <= constant, in spans."""
    rows = np.zeros((len(floored), width))
    rows[:, -2:] = -1.0
    room = np.full(len(rows), problem.constant[0])
    for r, c in enumerate(floored):
        if c == len(problem.free):
            room[r] -= problem.floor_base
        else:
            rows[r, starts[c] : starts[c + 1]] = problem.floors[c] / span
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


def relax(problem: Problem, program: Program, *, seconds: float) -> tuple[Dual, Answer]:
    """Multipliers and x of the linear relaxation; out of time, both are those of no effort."""
    some = program.rows.shape[0] > 0
    free = [(0, None)] * (len(program.cost) - 1) + [(None, None)]
    found = linprog(
        program.cost,
        A_ub=program.rows if some else None,
        b_ub=program.room if some else None,
        A_eq=program.ties,
        b_eq=program.tied,
        bounds=free,
        method="highs",
        options={"time_limit": max(seconds, 0.01)},
    )
    dual = free_of_charge(problem)
    if found.status != 0:
        return dual, Answer(x=np.zeros(0), bound=-np.inf, feasible=found.status != 2)
    answer = Answer(x=found.x[: program.n_x], bound=program.harm(found.fun), feasible=True)
    rows = np.maximum(-found.ineqlin.marginals, 0) if some else np.zeros(0)
    bills = len(program.units)
    dual.floors[program.floored] = rows[bills : bills + len(program.floored)]
    dual.prices[:] = rows[:bills] * program.span / program.units
    at = len(problem.free)
    for b, messages in zip(problem.blocks, dual.messages, strict=True):
        for message, n in zip(messages, b.values.shape[1:], strict=True):
            message[:] = found.eqlin.marginals[at : at + n] * program.span
            at += n
    return dual, answer


def search(program: Program, *, seconds: float, gap: float) -> Answer:
    """Branch and bound (HiGHS, Huangfu & Hall 2018); gap: on the harm, absolute."""
    width = len(program.cost)
    whole = np.zeros(width)
    whole[: program.n_x] = 1
    lower, upper = np.zeros(width), np.ones(width)
    upper[-2:], lower[-1] = np.inf, -np.inf
    rows = [LinearConstraint(program.ties, program.tied, program.tied)]
    if program.rows.shape[0]:
        rows.append(LinearConstraint(program.rows, -np.inf, program.room))
    found = milp(
        program.cost,
        integrality=whole,
        bounds=Bounds(lower, upper),
        constraints=rows,
        options={"time_limit": max(seconds, 0.01), "mip_rel_gap": gap},
    )
    if found.status == 2:
        return Answer(x=np.zeros(0), bound=np.inf, feasible=False)
    bound = -np.inf if found.mip_dual_bound is None else program.harm(found.mip_dual_bound)
    x = np.zeros(0) if found.x is None else found.x[: program.n_x]
    return Answer(x=x, bound=bound - TOLERANCE * program.span, feasible=True)
