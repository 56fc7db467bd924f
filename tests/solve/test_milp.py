"""The exact solver against every point looked at."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from allot.errors import BudgetError
from allot.solve import branch, smallest, solve
from allot.solve.problem import cut
from allot.table import Table, Term
from tests.solve.instances import Instance, draw, limits_at, table


@pytest.mark.parametrize("seed", range(35))
@pytest.mark.parametrize("floor", [True, False])
def test_harm_is_the_least_of_all_points(seed: int, floor: bool) -> None:
    rng = np.random.default_rng(seed)
    case = draw(rng)
    for share in (0.05, 0.4):
        limits = limits_at(case, share)
        best = case.best(limits, floor=floor)
        if best == np.inf:
            continue
        found = solve(
            case.counts, harm=case.harm, bills=case.bills, limits=limits, floor=floor, gap=0.0
        )
        assert found.harm == pytest.approx(best, rel=1e-9, abs=1e-12)
        assert found.harm == case.value(found.point, floor=floor)
        assert found.bound <= best + 1e-12 * abs(best)
        assert found.gap <= 1e-6
        assert case.within(found.point, limits)


@pytest.mark.parametrize("seed", range(24))
def test_excluded_points_stay_out_and_fixed_options_stay_in(seed: int) -> None:
    rng = np.random.default_rng(100 + seed)
    case = draw(rng)
    limits, fixed, excluded = limits_at(case, 0.6), {0: int(rng.integers(3))}, []
    for _ in range(4):
        best = case.best(limits, floor=True, excluded=excluded, fixed=fixed)
        if best == np.inf:
            return
        found = solve(
            case.counts,
            harm=case.harm,
            bills=case.bills,
            limits=limits,
            fixed=fixed,
            excluded=excluded,
            gap=0.0,
        )
        assert found.point not in excluded
        assert found.point[0] == fixed[0]
        assert found.harm == pytest.approx(best, rel=1e-9)
        excluded.append(found.point)


def test_gap_is_kept_and_bound_is_never_above_the_optimum() -> None:
    for seed in range(40):
        case = draw(np.random.default_rng(200 + seed))
        limits = {"size": limits_at(case, 0.3)["size"]}
        best = case.best(limits, floor=True)
        found = solve(case.counts, harm=case.harm, bills=case.bills, limits=limits, gap=0.1)
        assert found.bound <= best + 1e-12 * abs(best)
        assert best <= found.harm <= best + 0.1 * abs(found.harm) + 1e-12
        assert found.gap == pytest.approx((found.harm - found.bound) / abs(found.harm))


def test_harms_over_fifteen_decades_are_solved_to_the_true_optimum() -> None:
    for seed in range(8):
        rng = np.random.default_rng(seed)
        n, k = 5, 4
        harm = [
            Term(at=(i,), values=10 ** rng.uniform(-3, 6) * 10.0 ** (-3 * np.arange(k)))
            for i in range(n)
        ]
        size = [
            Term(at=(i,), values=rng.integers(50, 200) * np.arange(1.0, k + 1)) for i in range(n)
        ]
        case = Instance(
            counts=(k,) * n, harm=table("nat", harm), bills={"size": table("byte", size)}
        )
        values = np.concatenate([t.values for t in harm])
        assert values.max() / values.min() > 1e12
        for share in (0.3, 0.8, 0.99):
            limits = limits_at(case, share)
            found = solve(case.counts, harm=case.harm, bills=case.bills, limits=limits, gap=0.0)
            assert found.harm == pytest.approx(case.best(limits, floor=True), rel=1e-9)


def test_more_budget_never_harms() -> None:
    fell = 0
    for seed in range(10):
        case = draw(np.random.default_rng(300 + seed))
        harms = []
        for share in (0.02, 0.1, 0.3, 0.6, 1.0):
            limits = {"size": limits_at(case, share)["size"]}
            found = solve(case.counts, harm=case.harm, bills=case.bills, limits=limits, gap=0.0)
            harms.append(found.harm)
        assert all(b <= a + 1e-9 * abs(a) for a, b in itertools.pairwise(harms))
        fell += harms[-1] < harms[0]
    assert fell >= 5


def test_a_limit_below_every_point_names_the_smallest_alone() -> None:
    for seed in range(10):
        case = draw(np.random.default_rng(400 + seed))
        least = {k: min(b.of(p) for p in case.points) for k, b in case.bills.items()}
        limits = {"size": least["size"] - 1, "latency": least["latency"] * 2}
        with pytest.raises(BudgetError, match="the smallest size is") as e:
            solve(case.counts, harm=case.harm, bills=case.bills, limits=limits)
        assert e.value.smallest == pytest.approx(least)
        assert f"{least['size']:.10g}" in str(e.value)
        at_least = limits | {"size": least["size"], "latency": 1e9}
        found = solve(case.counts, harm=case.harm, bills=case.bills, limits=at_least)
        assert found.bills["size"] == least["size"]


def test_limits_met_alone_but_not_together_name_the_smallest_of_each_given_the_other() -> None:
    seen = 0
    for seed in range(16):
        case = draw(np.random.default_rng(500 + seed))
        limits = limits_at(case, 0.03)
        if case.best(limits, floor=True) < np.inf:
            continue
        seen += 1
        with pytest.raises(BudgetError, match="together") as e:
            solve(
                case.counts,
                harm=case.harm,
                bills=case.bills,
                limits=limits,
                describe=lambda name, value: f"{value:.3f} of {name}",
            )
        for name, other in (("size", "latency"), ("latency", "size")):
            kept = [p for p in case.points if case.bills[other].of(p) <= limits[other]]
            least = min(case.bills[name].of(p) for p in kept)
            assert e.value.smallest[name] == pytest.approx(least, rel=1e-6)
            assert f"{least:.3f} of {name}" in str(e.value)
    assert seen >= 4


def test_excluding_every_plan_within_the_limits_says_so() -> None:
    case = draw(np.random.default_rng(1))
    limits = {"size": min(case.bills["size"].of(p) for p in case.points)}
    inside = [p for p in case.points if case.within(p, limits)]
    with pytest.raises(BudgetError, match="excluded"):
        solve(case.counts, harm=case.harm, bills=case.bills, limits=limits, excluded=inside)


def test_a_single_byte_too_many_is_refused_where_the_solver_would_take_it() -> None:
    tempted = 0
    for seed in (24, 41, 49, 50, 51):
        rng = np.random.default_rng(seed)
        n, k = 6, 3
        bytes_ = [np.sort(rng.integers(10**9, 2 * 10**9, k)).astype(float) for _ in range(n)]
        harms = [np.sort(rng.random(k))[::-1].copy() for _ in range(n)]
        size = table("byte", [Term(at=(i,), values=v) for i, v in enumerate(bytes_)])
        harm = table("nat", [Term(at=(i,), values=v) for i, v in enumerate(harms)])
        case = Instance(counts=(k,) * n, harm=harm, bills={"size": size})
        forbidden = sorted(case.points, key=harm.of)[rng.integers(5, 60)]
        limits = {"size": size.of(forbidden) - 1}
        # a second limit, or one limit of additive tables would not go through the solver
        bills, both = {"size": size, "again": size}, limits | {"again": limits["size"]}
        found = solve(case.counts, harm=harm, bills=bills, limits=both, gap=0.0)
        assert int(found.bills["size"]) <= int(limits["size"])
        assert found.harm == pytest.approx(case.best(limits, floor=True), rel=1e-12)
        tempted += _was_tempted(case, limits)
    assert tempted


def _was_tempted(case: Instance, limits: dict[str, float]) -> bool:
    """Whether the search met a point that breaks the limit by less than the tolerance."""
    state = branch.search(
        branch.Case(
            harm=case.harm,
            bills=(case.bills["size"],) * 2,
            limits=np.array([limits["size"]] * 2),
            allowed=tuple(np.arange(n) for n in case.counts),
            floors=tuple(np.full(n, -np.inf) for n in case.counts),
            excluded=frozenset(),
            deadline=np.inf,
            gap=0.0,
        )
    )
    assert state is not None
    return bool(state.broken)


def test_the_smallest_bill_is_the_least_of_all_points() -> None:
    for seed in range(20):
        case = draw(np.random.default_rng(600 + seed))
        for bill in case.bills.values():
            point, value = smallest(case.counts, bill, {1: 2})
            assert value == bill.of(point)
            assert value == pytest.approx(min(bill.of(p) for p in case.points if p[1] == 2))


def test_the_floor_keeps_pair_terms_from_promising_less_than_the_worst_option() -> None:
    pair = np.array([[0.0, 0.0], [0.0, -9.0]])
    singles = [Term(at=(i,), values=np.array([1.0, 5.0])) for i in range(2)]
    harm = table("nat", [*singles, Term(at=(0, 1), values=pair)])
    trusting = solve((2, 2), harm=harm, bills={}, limits={}, floor=False)
    guarded = solve((2, 2), harm=harm, bills={}, limits={}, floor=True)
    assert (trusting.point, trusting.harm) == ((1, 1), 1.0)
    assert (guarded.point, guarded.harm) == ((0, 0), 2.0)


def test_nothing_to_choose_is_the_only_point_or_an_error() -> None:
    harm = table("nat", [Term(at=(0,), values=np.array([2.0]))])
    size = table("byte", [Term(at=(0, 1), values=np.array([[3.0]]))])
    found = solve((1, 1), harm=harm, bills={"size": size}, limits={"size": 3})
    assert (found.point, found.harm) == ((0, 0), 2.0)
    assert 0 <= found.gap < 1e-9
    with pytest.raises(BudgetError):
        solve((1, 1), harm=harm, bills={"size": size}, limits={"size": 2})
    assert solve((2,), harm=table("nat", []), bills={}, limits={}).harm == 0.0


def test_out_of_time_the_best_known_point_comes_with_an_honest_gap() -> None:
    case = draw(np.random.default_rng(5))
    limits = limits_at(case, 0.5)
    found = solve(case.counts, harm=case.harm, bills=case.bills, limits=limits, time_limit=0.0)
    best = case.best(limits, floor=True)
    assert case.within(found.point, limits)
    assert found.bound <= best <= found.harm


def test_what_is_additive_leaves_no_joint_columns_and_what_is_not_does() -> None:
    a, b, c = np.array([0.1, 0.7]), np.array([3.0, 1e-9, 5.0]), np.array([0.3, 0.4])
    allowed = [np.arange(2), np.arange(3), np.arange(2)]
    floors = [np.full(len(x), -np.inf) for x in allowed]
    total = a[:, None, None] + b[None, :, None] + c[None, None, :]
    plain = cut([_over(total)], allowed, floors)
    assert not plain.blocks
    mixed = cut([_over(a[:, None, None] * b[None, :, None] + c[None, None, :])], allowed, floors)
    assert [x.at for x in mixed.blocks] == [(0, 1)]
    for problem, values in ((plain, total), (mixed, a[:, None, None] * b[:, None] + c)):
        for point in np.ndindex(2, 3, 2):
            index = np.array(point)
            assert problem.values(index)[0] == pytest.approx(values[point], rel=1e-12)
            assert problem.given(index, 1)[0] - problem.given(index, 1)[0][0] == pytest.approx(
                values[point[0], :, point[2]] - values[point[0], 0, point[2]], rel=1e-12
            )


def _over(values: np.ndarray) -> Table:
    return table("nat", [Term(at=(0, 1, 2), values=values)])
