"""Opponents: each keeps the laws of searchers and does what its authors' code does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import FrozenInstanceError
from functools import partial

import numpy as np
import pytest

from allot.searchers.ensemble import dele
from benchmarks.search.opponents import ALL, Opponent
from benchmarks.search.opponents.evopress import evopress, mutants
from benchmarks.search.opponents.greedy import remeasured
from benchmarks.search.opponents.modelopt import gradient, last_iterate, least_worst, monotone
from benchmarks.search.opponents.plain import Bills, lowered, order_of_cost, random, uniform
from tests import synthetic
from tests.searchers.laws import COUNTS, LAWS, Searcher, keeps_its_budget, ran, repeats_itself

OWN = (uniform, random, remeasured, evopress, gradient)


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("searcher", OWN)
def test_laws(searcher: Searcher, law: Callable[[Searcher], None]) -> None:
    law(searcher)


# its last iterate may lie above the tightest level, so that it need not end with a plan there
@pytest.mark.parametrize("law", LAWS[:3])
def test_laws_of_the_least_worst(law: Callable[[Searcher], None]) -> None:
    law(least_worst)


def brief(searcher: Searcher) -> Searcher:
    """The searcher, with few rounds where it trains in each."""
    return partial(dele, rounds=1, steps=5) if searcher is dele else searcher


@pytest.mark.parametrize("opponent", ALL, ids=lambda o: o.name)
def test_every_opponent_runs_within_a_budget(opponent: Opponent) -> None:
    truth = synthetic.truth(COUNTS, third=0.2)
    trials = synthetic.trials(truth, evaluations=20, count=1 if opponent.single_level else 6)
    ran(brief(opponent.searcher), trials, [truth.alone()] * len(opponent.signals))
    assert trials.plans and trials.evaluator.spent <= 20


def test_names_are_unique_and_opponents_are_frozen() -> None:
    assert len({o.name for o in ALL}) == len(ALL)
    with pytest.raises(FrozenInstanceError):
        ALL[0].name = "other"  # type: ignore[misc]


@pytest.mark.parametrize("products", [False, True])
def test_evopress_offspring_keep_the_budget_and_differ_from_their_parent(products: bool) -> None:
    trials = synthetic.trials(synthetic.truth((3,) * 7), products=products)
    bills, g = Bills(trials), np.random.default_rng(0)
    for limits in trials.levels:
        parent = lowered(bills, trials.space.original, limits, g)
        assert parent is not None
        born = mutants(bills, parent, limits, g, most=16)
        assert all(trials.fits(p, limits) for p in born)
        assert parent not in born and len(set(born)) == len(born)


def test_evopress_at_a_single_level_gets_better_with_its_budget() -> None:
    truth = synthetic.truth((3,) * 6, third=0.2)
    found = []
    for most in (6.0, 60.0):
        trials = synthetic.trials(truth, evaluations=most, count=3)
        trials.levels = trials.levels[1:2]
        best = ran(evopress, trials).best(trials.levels[0])
        assert best is not None
        found.append(best.divergence / truth.best(trials.bills, trials.levels[0])[1])
    assert found[1] <= found[0] and found[1] < 1.2


def test_evopress_is_the_same_for_the_same_seed_only() -> None:
    truth = synthetic.truth((3,) * 6)
    runs = [ran(evopress, synthetic.trials(truth, evaluations=20), seed=s) for s in (0, 1)]
    assert runs[0].trace != runs[1].trace


def test_random_plans_just_meet_their_level() -> None:
    trials = synthetic.trials(synthetic.truth(COUNTS))
    bills, g = Bills(trials), np.random.default_rng(0)
    for limits in trials.levels:
        point = lowered(bills, trials.space.original, limits, g)
        assert point is not None and trials.fits(point, limits)
    assert lowered(bills, trials.space.original, {"size": 1.0}, g) is None


def test_greedy_steps_one_option_at_a_time_and_measures_all_steps_from_where_it_is() -> None:
    truth = synthetic.truth((2,) * 5, coupling=0)
    trials = ran(remeasured, synthetic.trials(truth))
    assert len(trials.plans) <= 1 + 5 + 4 + 3 + 2 + 1
    assert {p for p in truth.points if sum(p) <= 1} <= set(trials.plans)


def test_modelopt_cuts_a_score_to_that_of_the_next_cheaper_option() -> None:
    truth = synthetic.truth((4,))
    trials = synthetic.trials(truth)
    table = synthetic.Table(
        unit="nat",
        origin="",
        terms=(synthetic.Term(at=(0,), values=np.array([0.0, 5.0, 3.0, 4.0])),),
    )
    assert order_of_cost(trials) == [[0, 1, 2, 3]]
    assert monotone(trials, table).single(0, 4).tolist() == [0.0, 3.0, 3.0, 4.0]


def test_the_threshold_ends_beside_the_least_worst_plan() -> None:
    truth = synthetic.truth(COUNTS)
    trials, table = synthetic.trials(truth), truth.alone()
    scores = [table.single(i, n) for i, n in enumerate(COUNTS)]

    def worst(p: tuple[int, ...]) -> float:
        return max(float(s[o]) for s, o in zip(scores, p, strict=True))

    for limits in trials.levels:
        least = min(worst(p) for p in truth.points if trials.fits(p, limits))
        assert worst(last_iterate(trials, table, limits)) <= least + 1e-12


@pytest.mark.parametrize("opponent", [o for o in ALL if isinstance(o.searcher, partial)])
def test_adjusted_searchers_keep_the_laws_too(opponent: Opponent) -> None:
    keeps_its_budget(opponent.searcher)
    repeats_itself(opponent.searcher)
