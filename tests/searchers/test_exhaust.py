"""Exact choice: the point by point look and the program agree, and both with brute force."""

from __future__ import annotations

import numpy as np
import pytest

from allot.searchers import exhaust
from allot.searchers.exhaust import between, cheapest, least, program, spread, told
from allot.table import Table, Term
from tests import synthetic
from tests.searchers.laws import COUNTS


def test_a_table_is_told_to_the_last_bit_peaks_included() -> None:
    truth, g = synthetic.truth(COUNTS), np.random.default_rng(0)
    terms = tuple(Term(at=(i,), values=g.normal(size=n)) for i, n in enumerate(COUNTS))
    pair = Term(at=(1, 3), values=g.normal(size=(2, 3)))
    table = Table(unit="nat", origin="", constant=0.3, terms=(*terms, pair), peaks=(terms, (pair,)))
    expected = [table.of(p) for p in truth.points]
    assert told(table, np.asarray(truth.points)).tolist() == expected


@pytest.mark.parametrize("products", [False, True])
def test_both_ways_find_the_optimum_of_brute_force(
    products: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    truth = synthetic.truth(COUNTS, coupling=0)
    trials = synthetic.trials(truth, products=products)
    expected = [truth.best(trials.bills, v)[1] for v in trials.levels]
    for most in (exhaust.MOST, 0):
        monkeypatch.setattr(exhaust, "MOST", most)
        found = [c.harm for c in cheapest(trials, truth.alone()) if c is not None]
        # within the gap at which the program stops
        assert found == pytest.approx(expected, rel=2e-3)


@pytest.mark.parametrize("most", [exhaust.MOST, 0])
def test_excluded_points_are_not_found_and_nothing_is_where_nothing_fits(
    most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exhaust, "MOST", most)
    truth = synthetic.truth((2, 2, 2))
    trials = synthetic.trials(truth)
    task, seen = program(trials, truth.fisher()), []
    for _ in truth.points:
        found = least(task, {"size": 1e9}, excluded=seen)
        assert found is not None
        seen.append(found.point)
    assert sorted(seen) == truth.points
    assert least(task, {"size": 1e9}, excluded=seen) is None
    assert least(task, {"size": 1.0}) is None


@pytest.mark.parametrize("n", range(12))
def test_spread_names_everything_once_the_tightest_first(n: int) -> None:
    assert sorted(spread(n)) == list(range(n))
    assert spread(n)[:1] == [n - 1][: min(n, 1)]


def test_levels_between_divide_every_step() -> None:
    assert between([{"a": 8.0}, {"a": 4.0}, {"a": 0.0}], 4) == [
        {"a": v} for v in (7.0, 6.0, 5.0, 3.0, 2.0, 1.0)
    ]
