"""Laws of evolution over steps and bits: codes keep what they say, budgets hold, seeds repeat."""

from __future__ import annotations

import numpy as np
import pytest

from allot.options.steps import Drop
from allot.recipes.timesteps import Code, Coded, tmpq
from tests.searchers.tiny_scene import STEPS, harm, space, trials


def coded() -> Coded:
    return Coded(space=space(), mild=harm().mild)


def test_a_code_keeps_as_many_steps_of_every_group_as_it_says() -> None:
    c = coded()
    assert sum(map(len, c.groups)) == STEPS
    g = np.random.default_rng(0)
    for _ in range(20):
        kept = tuple(int(g.integers(1, len(group) + 1)) for group in c.groups)
        weights = tuple(int(g.integers(1, 3)) for _ in c.weights)
        point = c.point(Code(kept=kept, weights=weights))
        for group, count in zip(c.groups, kept, strict=True):
            taken = [not isinstance(space().choices[i].options[point[i]], Drop) for i in group]
            assert sum(taken) == count and taken[0]
        assert tuple(point[i] for i in c.weights) == weights


def test_the_whole_code_is_the_mild_plan() -> None:
    c = coded()
    whole = Code(kept=tuple(map(len, c.groups)), weights=tuple(c.mild[i] for i in c.weights))
    assert c.point(whole) == c.mild


def test_every_level_gets_a_plan_of_steps_and_weights_within_it() -> None:
    t = trials(0.7, 0.4)
    tmpq(t, harm=[], seed=0, population=4, generations=2)
    for limits in t.levels:
        best = t.best(limits)
        assert best is not None and t.fits(best.point, limits)
    free = {*coded().weights, *harm().steps}
    for p in t.plans:
        assert all(o == m or i in free for i, (o, m) in enumerate(zip(p, harm().mild, strict=True)))


def test_the_same_seed_measures_the_same_plans() -> None:
    found = []
    for _ in range(2):
        t = trials(0.5)
        tmpq(t, harm=[], seed=3, population=4, generations=2)
        found.append(list(t.plans))
    assert found[0] == found[1]


def test_a_level_out_of_reach_gets_none() -> None:
    t = trials(1e-4)
    tmpq(t, harm=[], seed=0, population=3, generations=1)
    assert not t.plans


@pytest.mark.parametrize("seed", range(3))
def test_what_is_measured_is_the_best_that_was_compared(seed: int) -> None:
    t = trials(0.5)
    tmpq(t, harm=[], seed=seed, population=4, generations=2, share=1.0)
    assert len(t.plans) == 1
