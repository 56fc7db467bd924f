"""Bisect: budgets met by the shortest prefix, floors held by the longest."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import pytest

from allot.searchers.bisect import by_harm, by_option, floors, listed, prefixes, relative, to_floor
from tests import synthetic
from tests.searchers.laws import COUNTS, LAWS, Searcher, ran


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("searcher", [listed, partial(listed, order=by_option), floors])
def test_laws(searcher: Searcher, law: Callable[[Searcher], None]) -> None:
    law(searcher)


@pytest.mark.parametrize("law", LAWS[:3])
def test_laws_of_the_floor(law: Callable[[Searcher], None]) -> None:
    law(to_floor)


@pytest.mark.parametrize("order", [by_harm, by_option])
def test_a_walk_gets_cheaper_with_every_step_down_to_the_cheapest(order: Searcher) -> None:
    truth = synthetic.truth(COUNTS)
    trials = synthetic.trials(truth)
    points = prefixes(trials, order(trials, truth.alone()))  # type: ignore[func-returns-value]
    costs = [relative(trials, p) for p in points]
    assert points[0] == trials.space.original and costs == sorted(costs, reverse=True)
    assert points[-1] == tuple(n - 1 for n in COUNTS)


def test_every_level_gets_the_shortest_prefix_within_it() -> None:
    truth = synthetic.truth(COUNTS)
    trials = ran(listed, synthetic.trials(truth))
    walk = prefixes(trials, by_harm(trials, truth.alone()))
    assert set(trials.plans) == set(walk)


def longest(truth: synthetic.Truth, need: float) -> tuple[int, ...]:
    """The plan of the staged list within the floor, by measuring every prefix."""
    trials = synthetic.trials(truth)
    harm, base = truth.alone(), trials.space.original
    for o in range(1, max(COUNTS)):
        able = [i for i, n in enumerate(COUNTS) if n > o and base[i] == o - 1]
        point = base
        for i in sorted(able, key=lambda i: (harm.single(i, COUNTS[i])[o], i)):
            point = (*point[:i], o, *point[i + 1 :])
            if trials.measure([point])[0].metric >= need:
                base = point
            else:
                break
    return base


@pytest.mark.parametrize("floor", [0.1, 1.0, 5.0, 20.0])
def test_a_floor_is_held_by_the_longest_prefix_in_logarithmically_many_plans(floor: float) -> None:
    # separable and growing along the list, so that the metric falls with every step
    truth = synthetic.truth(COUNTS, coupling=0, seed=1)
    trials = synthetic.trials(truth)
    to_floor(trials, harm=[truth.alone()], seed=0, floor=floor)
    held = [m for m in trials.plans.values() if m.metric >= 1 - floor / 100]
    cheapest = min(held, key=lambda m: m.bills["size"])
    assert cheapest.point == longest(truth, 1 - floor / 100)
    stages = max(COUNTS) - 1
    assert len(trials.plans) <= 1 + stages * math.ceil(math.log2(len(COUNTS) + 1))
