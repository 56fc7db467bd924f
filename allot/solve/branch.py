"""Branch: incumbent, bound and HiGHS in turn, until the best point is proven to be best."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from allot.solve import dp, highs, lagrange, program
from allot.solve.case import Case, State
from allot.solve.descend import Limits, fits, polish
from allot.solve.lagrange import Dual
from allot.solve.problem import Index, Problem, cut
from allot.table import Array

ROUNDS = 12
CORE = 48  # choices in doubt that are solved for a point first
CORE_SECONDS = 1.0
NARROW = 1e-6  # by which a limit is tightened, relative, once many points break it


def search(case: Case) -> State | None:
    """The best point with its bound; None if proven that no point is within the limits.

    Out of time, `point` may be None although there is one.
    """
    problem = cut((case.harm, *case.bills), case.allowed, case.floors)
    state = _climb(case, problem, State(), None)
    if (proven := _additive(case, problem, state)) is not None:
        return proven
    state, dual, problem = _relax(case, problem, state)
    if dual is None:
        return None if state.point is None else state
    for better in (_climb_priced, _core):
        if not state.done(case):
            state = better(case, problem, dual, state)
    return _prove(case, problem, dual, state)


def _prove(case: Case, problem: Problem, dual: Dual, state: State) -> State | None:
    """The state after as many runs of HiGHS as it takes; None if there is no point."""
    for _ in range(ROUNDS):
        before = state
        if not state.done(case):
            state, feasible = _solve(case, problem, dual, state)
            if not feasible:
                return None
        if (state.harm, state.broken) == (before.harm, before.broken) and not (
            state.harm - state.bound < 0.1 * (before.harm - before.bound)
        ):
            break  # the rest is below the solver's precision
    return state


def _additive(case: Case, problem: Problem, state: State) -> State | None:
    """The proven best by dynamic programming: one limit, no joint terms, no floor that binds.

    None where that is not what is asked, or where HiGHS is to prove it.
    """
    if problem.blocks or len(case.limits) != 1 or case.excluded or not problem.free:
        return None
    limit = float(case.limits[0])
    price, low = dp.price(problem, limit)
    if len(program.floored(problem, Limits(at=case.limits), low)):
        return None
    index, proven = dp.best(problem, limit, price=price, aim=state.harm)
    if not proven or index is None:
        return None
    state = state.tried(case, problem.point(index))
    # the sums of the program and of the tables may differ in their last digits
    return state.raised(max(low, state.harm - lagrange.SLACK * abs(state.harm)))


def _prune(case: Case, problem: Problem, given: Sequence[Array], aim: float) -> Problem | None:
    """The problem without the options whose every point has at least the harm `aim`.

    None if a choice has no option left, so that no point below it is left either.
    """
    parts = zip(problem.options, given, problem.floors, strict=True)
    kept = [o[np.maximum(bound, floor) < aim] for o, bound, floor in parts]
    return _cut(case, problem, kept) if all(len(k) for k in kept) else None


def _cut(case: Case, problem: Problem, kept: Sequence[Index]) -> Problem:
    """The problem over the kept options of its free choices."""
    allowed = [np.array([i], dtype=np.intp) for i in problem.base]
    for at, options in zip(problem.free, kept, strict=True):
        allowed[at] = options
    return cut((case.harm, *case.bills), allowed, case.floors)


def _relax(case: Case, problem: Problem, state: State) -> tuple[State, Dual | None, Problem]:
    """The bound and the multipliers of the linear relaxation, over what the incumbent leaves.

    No multipliers where the relaxation has no point or nothing is left to decide.
    """
    limits = Limits(at=case.limits, excluded=case.excluded)
    least, given = lagrange.margins(problem, lagrange.free_of_charge(problem), limits.at)
    state = state.raised(least)
    left = _prune(case, problem, given, state.aim(case))
    if left is None:
        return state.raised(state.aim(case)), None, problem
    if not left.free:
        return _last(case, left, state), None, left
    dual, answer, root = _linear(case, left, state, least)
    if not answer.feasible:
        return state.raised(state.aim(case)), None, left
    state = state.raised(min(root, state.aim(case)))
    return _round(case, left, state, answer.x), dual, left


def _linear(
    case: Case, problem: Problem, state: State, least: float
) -> tuple[Dual, highs.Answer, float]:
    """The linear relaxation and its bound; with floors where that is quick and could raise it."""
    limits, span = Limits(at=case.limits, excluded=case.excluded), _span(state, least, case)
    none = np.zeros(0, dtype=np.intp)
    rows = program.build(problem, limits, span=span, base=least, floored=none)
    dual, answer = highs.relax(problem, rows, seconds=case.seconds)
    root, _ = lagrange.margins(problem, dual, limits.at)
    floored = program.floored(problem, limits, root)
    if not answer.feasible or not len(floored) or len(rows.cost) > highs.LARGE:
        return dual, answer, root
    rows = program.build(problem, limits, span=span, base=least, floored=floored)
    again, answer = highs.relax(problem, rows, seconds=case.seconds)
    better, _ = lagrange.margins(problem, again, limits.at)
    return (again, answer, better) if better > root else (dual, answer, root)


def _span(state: State, least: float, case: Case) -> float:
    """The harm that is to count as 1: what is still in doubt, or the most there can be.

    Some point's harm would not do: the original's is often 0, and nothing counts in units of it.
    """
    terms = (float(np.abs(t.values).max()) for t in case.harm.terms)
    harm = state.harm if state.point is not None else case.harm.constant + sum(terms)
    return max(harm - least, 1e-3 * abs(harm), 1e-9 * abs(least), 1e-290)


def _last(case: Case, problem: Problem, state: State) -> State:
    """The state once only one point is left below the aim."""
    aim = state.aim(case)
    state = state.tried(case, problem.base)
    return state.raised(min(aim, state.harm))


def _climb(case: Case, problem: Problem, state: State, prices: Array | None) -> State:
    """The state after the Lagrangian incumbent, checked by the tables."""
    limits = Limits(at=case.limits, excluded=case.excluded | state.broken)
    index = lagrange.incumbent(problem, limits, prices=prices)
    return state if index is None else state.tried(case, problem.point(index))


def _climb_priced(case: Case, problem: Problem, dual: Dual, state: State) -> State:
    return _climb(case, problem, state, dual.prices)


def _round(case: Case, problem: Problem, state: State, x: Array) -> State:
    """The state after the nearest whole point of a relaxation, if it can be used."""
    if not len(x):
        return state
    limits = Limits(at=case.limits, excluded=case.excluded | state.broken)
    index = _nearest(problem, x)
    if not fits(problem, index, limits):
        return state
    return state.tried(case, problem.point(polish(problem, index, limits)))


def _nearest(problem: Problem, x: Array) -> Index:
    ends = np.cumsum([s.shape[1] for s in problem.single])[:-1]
    return np.array([int(part.argmax()) for part in np.split(x, ends)], dtype=np.intp)


def _core(case: Case, problem: Problem, dual: Dual, state: State) -> State:
    """The state after HiGHS has run over the choices in doubt alone (Balas & Zemel 1980).

    Those are the ones for which another option costs least over the relaxation's bound.  What
    is left out is not covered by the bound, so only a point can come of it.
    """
    root, given = lagrange.margins(problem, dual, case.limits)
    rise = [g - g.min() for g in given]
    second = np.sort([float(np.partition(r, 1)[1]) for r in rise])
    if len(second) <= CORE:
        return state
    kept = [r <= second[CORE - 1] for r in rise]
    left = _cut(case, problem, [o[k] for o, k in zip(problem.options, kept, strict=True)])
    if not left.free:
        return state
    limits = Limits(at=case.limits, excluded=case.excluded | state.broken)
    span, base = _span(state, root, case), max(root, state.bound)
    floored = program.floored(left, limits, base)
    rows = program.build(left, limits, span=span, base=base, floored=floored)
    gap = case.gap / 4 * abs(state.harm) if state.point is not None else span
    # with a limit on nodes the answer may not hang on the clock
    seconds = case.seconds if case.nodes else min(case.seconds, CORE_SECONDS)
    answer = highs.search(rows, seconds=seconds, gap=gap / (2 * span), nodes=case.nodes)
    if not len(answer.x):
        return state
    index = _nearest(left, answer.x)
    if fits(left, index, limits):
        point = problem.index(left.point(index))
        return state.tried(case, problem.point(polish(problem, point, limits)))
    return state


def _solve(case: Case, problem: Problem, dual: Dual, state: State) -> tuple[State, bool]:
    """The state after one run of HiGHS over what is left, and whether there is a point at all."""
    aim = state.aim(case)
    root, given = lagrange.margins(problem, dual, case.limits)
    left = _prune(case, problem, given, aim)
    if left is None:
        return state.raised(aim), True
    if not left.free:
        return _last(case, left, state), True
    many = len(state.broken) > 4
    at = case.limits - (NARROW * np.abs(case.limits) if many else 0.0)
    limits = Limits(at=at, excluded=case.excluded | state.broken)
    root = max(root, state.bound)
    span = _span(state, root, case)
    floored = program.floored(left, limits, root)
    rows = program.build(left, limits, span=span, base=root, floored=floored)
    gap = 0.9 * case.gap * abs(state.harm) if state.point is not None else span
    answer = highs.search(rows, seconds=case.seconds, gap=gap / (2 * span), nodes=case.nodes)
    if not answer.feasible and not many:
        return state.raised(aim), state.point is not None
    if len(answer.x):
        state = state.tried(case, left.point(_nearest(left, answer.x)))
    # what the narrower limits cut off is not covered by their bound
    return state if many else state.raised(min(aim, answer.bound)), True
