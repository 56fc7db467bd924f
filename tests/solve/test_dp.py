"""Additive tables under one limit: the dynamic program against every point and HiGHS."""

from __future__ import annotations

import numpy as np
import pytest

from allot.solve import branch, dp, solve
from allot.solve.problem import Problem, cut
from allot.table import Term
from tests.solve.instances import Instance, limits_at, table


def _additive(rng: np.random.Generator, n: int, k: int) -> Instance:
    """Harm over six decades, whole bytes in no order, so that many options never pay."""
    harm = [Term(at=(i,), values=10 ** rng.uniform(-6, 0, k)) for i in range(n)]
    size = [Term(at=(i,), values=rng.integers(1, 500, k).astype(float)) for i in range(n)]
    return Instance(
        counts=(k,) * n, harm=table("nat", harm, 0.1), bills={"size": table("byte", size, 3.0)}
    )


def _problem(case: Instance) -> Problem:
    none = [np.full(n, -np.inf) for n in case.counts]
    return cut((case.harm, case.bills["size"]), [np.arange(n) for n in case.counts], none)


@pytest.mark.parametrize("seed", range(25))
def test_the_point_is_the_best_of_all_and_the_bound_below_it(seed: int) -> None:
    rng = np.random.default_rng(seed)
    case = _additive(rng, int(rng.integers(2, 7)), int(rng.integers(2, 5)))
    problem = _problem(case)
    for share in (0.02, 0.3, 0.8, 1.0):
        limits = limits_at(case, share)
        best = case.best(limits, floor=False)
        price, low = dp.price(problem, np.floor(limits["size"]))
        assert price >= 0
        assert low <= best
        index, proven = dp.best(problem, limits["size"], price=price, aim=np.inf)
        assert proven
        if best == np.inf:
            assert index is None
            continue
        assert index is not None
        assert case.harm.of(problem.point(index)) == pytest.approx(best, rel=1e-12)


def test_the_price_of_a_slack_limit_is_nothing() -> None:
    case = _additive(np.random.default_rng(3), 5, 3)
    price, low = dp.price(_problem(case), 1e9)
    assert price == 0
    assert low == pytest.approx(case.best({}, floor=False))


def test_a_bound_is_never_below_that_of_any_other_price() -> None:
    for seed in range(10):
        case = _additive(np.random.default_rng(seed), 8, 4)
        problem = _problem(case)
        limit = float(sum(np.median(t.values) for t in case.bills["size"].terms))
        price, low = dp.price(problem, limit)
        others = [dp._bound(problem, price * f, limit) for f in (0.5, 0.9, 1.1, 2.0)]
        assert low >= max(others) - 1e-9 * abs(low)


def test_nothing_below_the_aim_is_proven_by_an_empty_answer() -> None:
    case = _additive(np.random.default_rng(4), 5, 3)
    limits = limits_at(case, 0.4)
    best = case.best(limits, floor=False)
    problem = _problem(case)
    price, _ = dp.price(problem, limits["size"])
    assert dp.best(problem, limits["size"], price=price, aim=0.99 * best) == (None, True)


def test_too_many_partial_plans_are_left_to_the_general_solver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    case = _additive(np.random.default_rng(5), 6, 4)
    limits = limits_at(case, 0.4)
    monkeypatch.setattr(dp, "LABELS", 1)
    price, _ = dp.price(_problem(case), limits["size"])
    assert dp.best(_problem(case), limits["size"], price=price, aim=np.inf) == (None, False)
    found = solve(case.counts, harm=case.harm, bills=case.bills, limits=limits, gap=0.0)
    assert found.harm == pytest.approx(case.best(limits, floor=True), rel=1e-9)


def test_both_ways_agree_where_there_are_many_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    case = _additive(np.random.default_rng(6), 60, 4)
    limits = {"size": 60 * 180.0}

    def solved() -> tuple[float, float]:
        found = solve(case.counts, harm=case.harm, bills=case.bills, limits=limits, gap=1e-7)
        assert found.bills["size"] <= limits["size"]
        return found.harm, found.bound

    quick = solved()
    monkeypatch.setattr(branch, "_additive", lambda case, problem, state: None)
    slow = solved()
    assert quick[0] <= slow[0] <= quick[0] * (1 + 1e-6)
    assert slow[1] <= quick[0]
    assert quick[1] == pytest.approx(quick[0], rel=1e-11)
