"""Lagrangian bounds lie below every point; incumbents are points within the limits."""

from __future__ import annotations

import numpy as np
import pytest

from allot.errors import BudgetError
from allot.solve import lagrange, solve
from allot.solve.descend import Limits, coordinate, fits, polish, value
from allot.solve.problem import Problem, cut
from allot.table import Term
from tests.solve.instances import Instance, draw, limits_at, table


def _problem(case: Instance) -> Problem:
    return cut(
        (case.harm, *case.bills.values()),
        [np.arange(n) for n in case.counts],
        [case.harm.single(i, n) for i, n in enumerate(case.counts)],
    )


def _limits(case: Instance, share: float) -> Limits:
    return Limits(at=np.array(list(limits_at(case, share).values())))


def _additive(rng: np.random.Generator, n: int, k: int) -> Instance:
    harm = [
        Term(at=(i,), values=10 ** rng.normal() * 4.0 ** -np.arange(k) * rng.uniform(1, 2, k))
        for i in range(n)
    ]
    size = [Term(at=(i,), values=rng.integers(9, 99) * np.arange(2.0, k + 2)) for i in range(n)]
    return Instance(counts=(k,) * n, harm=table("nat", harm), bills={"size": table("byte", size)})


def test_additive_bound_lies_below_the_optimum_and_close_to_it() -> None:
    for seed in range(20):
        case = _additive(np.random.default_rng(seed), 6, 3)
        for share in (0.1, 0.5, 0.9):
            limits = limits_at(case, share)
            best = case.best(limits, floor=False)
            low = lagrange.bound(
                case.counts, harm=case.harm, bill=case.bills["size"], limit=limits["size"]
            )
            assert 0.3 * best <= low <= best


def test_additive_bound_is_attained_where_the_limit_is_slack() -> None:
    case = _additive(np.random.default_rng(3), 6, 3)
    low = lagrange.bound(case.counts, harm=case.harm, bill=case.bills["size"], limit=1e9)
    assert low == pytest.approx(case.best({}, floor=False), rel=1e-10)


def test_additive_bound_refuses_a_limit_below_every_point() -> None:
    case = _additive(np.random.default_rng(4), 4, 3)
    least = min(case.bills["size"].of(p) for p in case.points)
    with pytest.raises(BudgetError) as e:
        lagrange.bound(case.counts, harm=case.harm, bill=case.bills["size"], limit=least - 1)
    assert e.value.smallest == {"byte": least}


def test_bound_of_the_program_is_never_below_the_lagrangian_oracle_and_harm_never_under() -> None:
    case = _additive(np.random.default_rng(5), 40, 6)
    size = case.bills["size"]
    top = size.of((5,) * 40)
    for share in (0.4, 0.6, 0.8):
        low = lagrange.bound(case.counts, harm=case.harm, bill=size, limit=share * top)
        found = solve(
            case.counts,
            harm=case.harm,
            bills=case.bills,
            limits={"size": share * top},
            floor=False,
            gap=1e-4,
        )
        assert found.harm >= low
        assert found.bound >= low * (1 - 1e-6)
        assert found.gap <= 1e-4 * (1 + 1e-9)


@pytest.mark.parametrize("seed", range(25))
def test_margins_lie_below_every_feasible_point_for_any_multipliers(seed: int) -> None:
    rng = np.random.default_rng(seed)
    case = draw(rng)
    problem, limits = _problem(case), _limits(case, 0.5)
    dual = lagrange.free_of_charge(problem)
    for _ in range(5):
        low, given = lagrange.margins(problem, dual, limits.at)
        for point in case.points:
            index = problem.index(point)
            if not fits(problem, index, limits):
                continue
            harm = case.value(point, floor=True)
            assert low <= harm
            assert all(g[i] <= harm for g, i in zip(given, index, strict=True))
        dual.prices[:] = rng.exponential(size=len(dual.prices)) * 1e-2
        dual.floors[:-1] = rng.dirichlet(np.ones(len(problem.free)))
        for message in (m for dims in dual.messages for m in dims):
            message[:] = rng.normal(size=len(message))


def test_margins_without_multipliers_are_the_sums_of_the_least() -> None:
    case = _additive(np.random.default_rng(7), 4, 3)
    problem = _problem(case)
    low, given = lagrange.margins(problem, lagrange.free_of_charge(problem), np.array([1e9]))
    assert low == pytest.approx(case.best({}, floor=False), rel=1e-9)
    for c, bound in enumerate(given):
        for o, b in enumerate(bound):
            assert b == pytest.approx(case.best({}, floor=False, fixed={c: o}), rel=1e-9)


def test_incumbents_are_within_the_limits_and_seldom_far_from_the_optimum() -> None:
    near = total = 0
    for seed in range(40):
        case = draw(np.random.default_rng(seed))
        problem, limits = _problem(case), _limits(case, 0.4)
        best = case.best(limits_at(case, 0.4), floor=True)
        if best == np.inf:
            continue
        index = lagrange.incumbent(problem, limits)
        total += 1
        if index is not None:
            assert fits(problem, index, limits)
            assert case.within(problem.point(index), limits_at(case, 0.4))
            near += value(problem, index) <= best + 0.1 * abs(best)
    assert near >= 0.8 * total > 0


def test_incumbents_are_never_excluded_points() -> None:
    case = draw(np.random.default_rng(8))
    problem, limits = _problem(case), _limits(case, 0.8)
    first = lagrange.incumbent(problem, limits)
    assert first is not None
    point = problem.point(first)
    again = lagrange.incumbent(problem, Limits(at=limits.at, excluded=frozenset({point})))
    assert again is not None
    assert problem.point(again) != point


def test_polishing_never_harms_and_ends_where_no_single_move_betters() -> None:
    for seed in range(15):
        case = draw(np.random.default_rng(seed))
        problem, limits = _problem(case), _limits(case, 0.6)
        start = next((i for p in case.points if fits(problem, i := problem.index(p), limits)), None)
        if start is None:
            continue
        end = polish(problem, start, limits)
        assert value(problem, end) <= value(problem, start)
        for c, options in enumerate(problem.options):
            for o in range(len(options)):
                moved = end.copy()
                moved[c] = o
                if fits(problem, moved, limits):
                    assert value(problem, moved) >= value(problem, end)


def test_coordinate_descent_is_exact_where_tables_are_additive() -> None:
    case = _additive(np.random.default_rng(9), 5, 3)
    problem, weights = _problem(case), np.array([1.0, 0.01])
    index = coordinate(problem, weights)
    assert weights @ problem.values(index) == pytest.approx(
        min(weights @ problem.values(problem.index(p)) for p in case.points)
    )
