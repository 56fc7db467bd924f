"""Highs: programs run by HiGHS (Huangfu & Hall 2018), and what comes back of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import Bounds, LinearConstraint, OptimizeResult, linprog, milp

from allot.solve import joint
from allot.solve.lagrange import Dual, free_of_charge
from allot.solve.problem import Problem
from allot.solve.program import Program
from allot.table import Array

TOLERANCE = 2e-6  # what the solver's bound is lowered by, in spans
LARGE = 4000  # columns from which interior points are faster than the simplex


@dataclass(frozen=True, kw_only=True, eq=False)
class Answer:
    """What the solver says. x: of the best point found [options], empty without one.

    bound: on the harm of every point.  feasible: False where it is proven that there is none.
    """

    x: Array
    bound: float
    feasible: bool


def relax(problem: Problem, program: Program, *, seconds: float) -> tuple[Dual, Answer]:
    """Multipliers and x of the linear relaxation; out of time, both are those of no effort."""
    some = program.rows.shape[0] > 0
    found = _relaxed(program, seconds=seconds)
    dual = free_of_charge(problem)
    if found.status != 0:
        return dual, Answer(x=np.zeros(0), bound=-np.inf, feasible=found.status != 2)
    answer = Answer(x=found.x[: program.n_x], bound=program.harm(found.fun), feasible=True)
    rows = np.maximum(-found.ineqlin.marginals, 0) if some else np.zeros(0)
    bills = len(program.units)
    dual.floors[program.floored] = rows[bills : bills + len(program.floored)]
    dual.prices[:] = rows[:bills] * program.span / program.units
    harm = [1.0 - float(dual.floors.sum())]
    joint.messages_(
        problem,
        dual,
        np.concatenate([harm, dual.prices]),
        found.eqlin.marginals[len(problem.free) :] * program.span,
        rows[program.joint :] * program.span,
    )
    return dual, answer


def _relaxed(program: Program, *, seconds: float) -> OptimizeResult:
    """The linear relaxation solved; both methods end in a vertex, so they differ in time only."""
    some = program.rows.shape[0] > 0
    free = [(0, None)] * (len(program.cost) - 1) + [(None, None)]
    return linprog(
        program.cost,
        A_ub=program.rows if some else None,
        b_ub=program.room if some else None,
        A_eq=program.ties,
        b_eq=program.tied,
        bounds=free,
        method="highs-ipm" if len(program.cost) > LARGE else "highs",
        options={"time_limit": max(seconds, 0.01)},
    )


def search(program: Program, *, seconds: float, gap: float, nodes: int | None = None) -> Answer:
    """Branch and bound; gap: on the harm, absolute.  nodes: most that are looked at, which ends
    a search at the same point on every machine, as seconds do not."""
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
        options={
            "time_limit": max(seconds, 0.01),
            "mip_rel_gap": gap,
            **({} if nodes is None else {"node_limit": nodes}),
        },
    )
    if found.status == 2:
        return Answer(x=np.zeros(0), bound=np.inf, feasible=False)
    bound = -np.inf if found.mip_dual_bound is None else program.harm(found.mip_dual_bound)
    x = np.zeros(0) if found.x is None else found.x[: program.n_x]
    return Answer(x=x, bound=bound - TOLERANCE * program.span, feasible=True)
