"""Side conditions and largest sums: held by every path, against every point looked at."""

from __future__ import annotations

import numpy as np
import pytest

from allot.errors import BudgetError
from allot.solve import Row, smallest, solve
from allot.space import Point
from allot.table import Table, Term, load
from tests.solve.instances import Instance, draw, limits_at


def _rows(rng: np.random.Generator, case: Instance) -> tuple[Row, ...]:
    """A cap on how often an option is taken, and a drawn condition with both signs."""
    n = len(case.counts)
    cap = Row(terms={(i, c - 1): 1.0 for i, c in enumerate(case.counts)}, most=n - 3)
    drawn = {(i, o): float(rng.normal()) for i, c in enumerate(case.counts) for o in range(c)}
    return cap, Row(terms=drawn, most=float(rng.normal()))


def _holds(rows: tuple[Row, ...], point: Point) -> bool:
    return all(sum(r.terms.get((i, o), 0) for i, o in enumerate(point)) <= r.most for r in rows)


@pytest.mark.parametrize("seed", range(20))
def test_side_conditions_hold_and_cost_no_more_than_they_must(seed: int) -> None:
    rng = np.random.default_rng(seed)
    case = draw(rng)
    rows, limits = _rows(rng, case), limits_at(case, 0.6)
    inside = [p for p in case.points if _holds(rows, p) and case.within(p, limits)]
    if not inside:
        with pytest.raises(BudgetError):
            solve(case.counts, harm=case.harm, bills=case.bills, limits=limits, rows=rows)
        return
    found = solve(case.counts, harm=case.harm, bills=case.bills, limits=limits, rows=rows, gap=0.0)
    assert _holds(rows, found.point)
    assert found.harm == pytest.approx(min(case.value(p, floor=True) for p in inside), rel=1e-9)


def test_side_conditions_alone_that_leave_no_plan_say_so() -> None:
    case = draw(np.random.default_rng(1))
    never = Row(terms={(0, o): 1.0 for o in range(case.counts[0])}, most=0.0)
    with pytest.raises(BudgetError, match="side conditions"):
        solve(case.counts, harm=case.harm, bills=case.bills, limits={"size": 1e9}, rows=(never,))


def test_the_smallest_that_is_named_is_within_the_side_conditions() -> None:
    case = draw(np.random.default_rng(3))
    row = Row(terms={(0, 0): -1.0}, most=-1.0)  # the first choice stays as it is
    least = min(case.bills["size"].of(p) for p in case.points if p[0] == 0)
    limits = {"size": least - 1}
    with pytest.raises(BudgetError, match="smallest size"):
        solve(case.counts, harm=case.harm, bills=case.bills, limits=limits, rows=(row,))
    found = solve(
        case.counts, harm=case.harm, bills=case.bills, limits={"size": least}, rows=(row,)
    )
    assert found.bills["size"] == least


def _peaked(rng: np.random.Generator, case: Instance) -> Table:
    """Whole bytes: a sum over all choices, and the largest of four sums over two of them."""
    n = len(case.counts)

    def term(at: tuple[int, ...], top: int) -> Term:
        shape = [case.counts[a] for a in at]
        return Term(at=at, values=rng.integers(0, top, shape).astype(float))

    pairs = [tuple(sorted(rng.choice(n, 2, replace=False).tolist())) for _ in range(4)]
    peaks = tuple((term((a,), 300), term((a, b), 600)) for a, b in pairs)
    terms = tuple(term((i,), 200) for i in range(n))
    return Table(unit="byte", origin="drawn", constant=9.0, terms=terms, peaks=peaks)


@pytest.mark.parametrize("seed", range(15))
def test_a_limit_on_a_largest_sum_holds_for_every_sum(seed: int) -> None:
    rng = np.random.default_rng(seed)
    case = draw(rng)
    memory = _peaked(rng, case)
    bills = {**case.bills, "memory": memory}
    values = {p: memory.of(p) for p in case.points}
    limits = {
        "size": limits_at(case, 0.7)["size"],
        "memory": float(np.quantile([*values.values()], 0.3)),
    }
    inside = [p for p in case.points if case.within(p, {"size": limits["size"]})]
    inside = [p for p in inside if values[p] <= limits["memory"]]
    if not inside:
        return
    found = solve(case.counts, harm=case.harm, bills=bills, limits=limits, gap=0.0)
    assert found.bills["memory"] == values[found.point] <= limits["memory"]
    assert found.harm == pytest.approx(min(case.value(p, floor=True) for p in inside), rel=1e-9)


@pytest.mark.parametrize("seed", range(15))
def test_the_smallest_of_a_largest_sum_is_the_least_of_all_points(seed: int) -> None:
    rng = np.random.default_rng(seed)
    case = draw(rng)
    memory = _peaked(rng, case)
    least = min(memory.of(p) for p in case.points)
    point, value = smallest(case.counts, memory)
    assert value == memory.of(point) == least
    with pytest.raises(BudgetError) as e:
        solve(
            case.counts,
            harm=case.harm,
            bills={"memory": memory},
            limits={"memory": least - 1},
        )
    assert e.value.smallest == {"memory": least}


def test_a_largest_sum_is_what_it_says_and_survives_a_file() -> None:
    case = draw(np.random.default_rng(5))
    memory = _peaked(np.random.default_rng(5), case)
    again = load(memory.dump())
    for p in case.points:
        sums = [
            9.0
            + sum(t.values[tuple(p[i] for i in t.at)] for t in memory.terms)
            + sum(t.values[tuple(p[i] for i in t.at)] for t in terms)
            for terms in memory.peaks
        ]
        assert memory.of(p) == max(sums) == again.of(p) == max(t.of(p) for t in memory.flat())


def test_many_points_at_once_have_the_values_of_each() -> None:
    case = draw(np.random.default_rng(6))
    for table in (case.harm, _peaked(np.random.default_rng(6), case)):
        values = table.over(np.array(case.points))
        assert values == pytest.approx([table.of(p) for p in case.points], rel=1e-12)
