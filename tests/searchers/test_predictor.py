"""Predictor: exact where the truth is of its kind, and better with every plan measured."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest

from allot.searchers.exhaust import MOST
from allot.searchers.predictor import Fit, predicted, promising, rbf, ridge, unmeasured
from allot.surrogate import indicators
from tests import synthetic
from tests.searchers.laws import COUNTS, LAWS, Searcher


@pytest.mark.parametrize("law", LAWS)
@pytest.mark.parametrize("fit", [rbf, ridge])
def test_laws(fit: Fit, law: Callable[[Searcher], None]) -> None:
    law(partial(predicted, fit=fit))


def test_ridge_recovers_a_sum_over_options() -> None:
    points = np.asarray(synthetic.truth(COUNTS).points)
    truth = indicators(points, COUNTS) @ np.random.default_rng(0).normal(size=sum(COUNTS))
    seen = np.random.default_rng(1).permutation(len(points))[:40]
    predict = ridge(COUNTS, points[seen], truth[seen])
    assert np.abs(predict(points) - truth).max() < 1e-2


@pytest.mark.parametrize("n", [1, 3, 40])
def test_radial_functions_go_through_what_was_seen(n: int) -> None:
    points = np.asarray(synthetic.truth(COUNTS).points)
    seen = np.random.default_rng(1).permutation(len(points))[:n]
    values = np.random.default_rng(2).normal(size=n)
    assert rbf(COUNTS, points[seen], values)(points[seen]) == pytest.approx(values, abs=1e-3)


def test_promising_plans_are_new_and_best_foretold_at_some_level() -> None:
    truth = synthetic.truth(COUNTS, third=0.2)
    trials = synthetic.trials(truth)
    trials.measure(truth.points[::7])
    known = dict(zip(truth.points, np.log(truth.means + 1e-12), strict=True))
    found = promising(trials, lambda x: np.array([known[tuple(p)] for p in x.tolist()]), 99, seed=0)
    assert found and not set(found) & set(trials.plans)
    new = [p for p in truth.points if p not in trials.plans]
    for limits in trials.levels:
        inside = [p for p in new if trials.fits(p, limits)]
        assert not inside or min(inside, key=lambda p: known[p]) in found


def test_a_large_space_is_evolved() -> None:
    pytest.importorskip("pymoo")
    truth = synthetic.truth((3,) * 10)
    assert len(truth.points) > MOST
    trials = synthetic.trials(truth)
    trials.measure(truth.points[::6000])
    new = unmeasured(trials, lambda x: -x.sum(1).astype(float), seed=0)
    assert len(new) and not {tuple(p) for p in new.tolist()} & set(trials.plans)
