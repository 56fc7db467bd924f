"""Knapsack: exact where the table is, and the next best plans after it."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from allot.searchers.knapsack import open_loop, standing, verified
from tests import synthetic
from tests.searchers.laws import COUNTS, LAWS, Searcher, ran


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("searcher", [open_loop, verified])
def test_laws(searcher: Searcher, law: Callable[[Searcher], None]) -> None:
    law(searcher)


@pytest.mark.parametrize("searcher", [open_loop, verified])
@pytest.mark.parametrize("products", [False, True])
def test_with_an_exact_table_every_level_is_at_its_optimum(
    searcher: Searcher, products: bool
) -> None:
    truth = synthetic.truth(COUNTS, coupling=0, seed=3)
    trials = ran(searcher, synthetic.trials(truth, products=products))
    expected = [truth.best(trials.bills, v)[1] for v in trials.levels]
    assert standing(trials) == pytest.approx(expected, rel=1e-9)


def test_open_loop_measures_one_plan_per_level_at_most() -> None:
    trials = ran(open_loop, synthetic.trials(synthetic.truth(COUNTS)))
    assert 0 < len(trials.plans) <= len(trials.levels)


def test_verified_is_never_worse_than_open_loop() -> None:
    truth = synthetic.truth(COUNTS, third=0.5, destructive=(1,))
    opened, more = (ran(s, synthetic.trials(truth)) for s in (open_loop, verified))
    assert all(b <= a for a, b in zip(standing(opened), standing(more), strict=True))
    assert set(opened.plans) <= set(more.plans)


def test_with_patience_every_plan_of_a_tiny_space_is_measured() -> None:
    truth = synthetic.truth((2, 2, 3), third=0.5)
    trials = synthetic.trials(truth)
    verified(trials, harm=[truth.alone()], seed=0, patience=100)
    inside = {p for p in truth.points if trials.fits(p, trials.levels[0])}
    assert inside <= set(trials.plans)


def test_what_the_table_foretold_is_kept_beside_the_plan() -> None:
    truth = synthetic.truth(COUNTS)
    trials = ran(open_loop, synthetic.trials(truth))
    for plan in trials.plans.values():
        assert plan.predicted == pytest.approx(truth.alone().of(plan.point))
