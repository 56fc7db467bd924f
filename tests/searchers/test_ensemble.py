"""Ensemble: it starts from what its experts say and ends at what was measured."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch

from allot.errors import InputError
from allot.searchers.ensemble import Mixture, dele, taught, tuned
from allot.surrogate import indicators, word
from tests import synthetic
from tests.searchers.laws import COUNTS, LAWS, Searcher


@pytest.mark.parametrize("law", LAWS)
def test_laws(law: Callable[[Searcher], None]) -> None:
    law(partial(dele, steps=5, rounds=3))


def rank_correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a.argsort().argsort(), b.argsort().argsort())[0, 1])


def test_taught_experts_order_plans_as_their_tables_do() -> None:
    truth = synthetic.truth(COUNTS)
    tables, points = [truth.alone(), truth.fisher()], np.asarray(truth.points)
    model = taught(COUNTS, tables, width=32, seed=0)
    with torch.no_grad():
        said = model.experts(torch.from_numpy(indicators(points, COUNTS))).numpy()
    for expert, table in zip(said, tables, strict=True):
        assert rank_correlation(expert, word(table, points)) > 0.9


def test_the_gate_weighs_all_experts_alike_at_first_and_always_sums_to_one() -> None:
    model = Mixture(7, 3, width=8, seed=0)
    x = torch.randn(5, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    torch.testing.assert_close(
        torch.full((5, 3), 1 / 3, dtype=torch.float64), model.weights(x).detach()
    )
    with torch.no_grad():
        model.weighs += 1.0 * torch.arange(3)
    torch.testing.assert_close(torch.ones(5, dtype=torch.float64), model.weights(x).sum(1).detach())


def test_tuning_comes_closer_to_what_was_measured_and_leaves_the_start_as_it_was() -> None:
    truth = synthetic.truth(COUNTS, third=0.3)
    trials = synthetic.trials(truth)
    trials.measure(truth.points[1::5])
    start = taught(COUNTS, [truth.alone()], width=32, seed=0)
    before = {k: v.clone() for k, v in start.state_dict().items()}
    known = np.log([m.divergence for m in trials.plans.values()])
    seen = np.asarray(list(trials.plans))
    errors = [np.mean((tuned(start, trials, steps=n)(seen) - known) ** 2) for n in (0, 60)]
    assert errors[1] < errors[0]
    assert all(torch.equal(before[k], v) for k, v in start.state_dict().items())


def test_without_a_signal_it_is_refused() -> None:
    with pytest.raises(InputError, match="at least one signal"):
        dele(synthetic.trials(synthetic.truth(COUNTS)), harm=[], seed=0)
