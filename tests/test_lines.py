"""Laws of lines: they are what the belief says, and their least points are exact.

Faults these laws must catch: a posterior weight on the wrong option or pair; a draw that does not
pass through what was measured; a tangent that is no upper bound; a step that climbs.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from allot import surrogate
from allot.lines import Line, Solver, drawn, likeliest
from allot.surrogate import LEAST, Belief, Model, believe, word
from tests import synthetic

COUNTS = (3,) * 5
POINTS = np.array(list(itertools.product(*map(range, COUNTS))), dtype=np.intp)


def setting(seed: int) -> tuple[Model, Belief, np.ndarray, np.ndarray]:
    """A model over a synthetic truth, its belief after 25 points, their rows and logs."""
    truth = synthetic.truth(COUNTS, seed=seed, third=0.3)
    experts = (truth.fisher().with_pairs(99),)
    model = Model(counts=COUNTS, edges=(), experts=experts)
    rows = np.random.default_rng(seed).choice(len(POINTS), 25, replace=False)
    logs = np.log(np.maximum(truth.means[rows], LEAST))
    with pytest.MonkeyPatch.context() as patch:
        # lines leave out what neighbours share: without it they are the whole of the belief
        patch.setattr(surrogate, "_NEAR", (0.0,))
        belief = believe(model.known(POINTS[rows]), logs, np.zeros(25))
    return model, belief, rows, logs


def values(line: Line, model: Model) -> np.ndarray:
    """The line at all points, up to a constant."""
    found = line.trust * np.log(word(model.experts[line.expert], POINTS))
    for t in line.terms:
        found = found + t.values[tuple(POINTS[:, i] for i in t.at)]
    return np.asarray(found)


@pytest.mark.parametrize("seed", range(3))
def test_the_likeliest_line_is_the_posterior_mean(seed: int) -> None:
    model, belief, _, _ = setting(seed)
    top = int(belief.weights.argmax())
    alone = Belief(seen=belief.seen, posteriors=(belief.posteriors[top],), weights=np.ones(1))
    mean = alone.means(model.known(POINTS))
    off = mean - values(likeliest(belief, model), model)
    assert np.ptp(off) < 1e-8 * np.abs(mean).max(), f"differs by up to {np.ptp(off)}"


@pytest.mark.parametrize("seed", range(3))
def test_drawn_lines_scatter_about_the_posterior_mean_as_far_as_it_is_unsure(seed: int) -> None:
    model, belief, rows, logs = setting(seed)
    top = int(belief.weights.argmax())
    alone = Belief(seen=belief.seen, posteriors=(belief.posteriors[top],), weights=np.ones(1))
    g = np.random.default_rng(seed)
    lines = [values(drawn(alone, model, logs, np.zeros(25), g), model) for _ in range(400)]
    # a line is known up to a constant
    drift = np.array([x - x[rows].mean() for x in lines])
    mean = alone.means(model.known(POINTS))
    spread = drift.std(0)
    error = drift.mean(0) - (mean - mean[rows].mean())
    assert (np.abs(error) < 5 * spread / 20 + 1e-6).all(), f"off by {np.abs(error).max()}"
    others = np.setdiff1d(np.arange(len(POINTS)), rows)
    assert np.median(spread[rows]) < np.median(spread[others])


@pytest.mark.parametrize("seed", range(3))
def test_a_tangent_lies_above_the_line_and_touches_it(seed: int) -> None:
    model, belief, _, _ = setting(seed)
    line = likeliest(belief, model)
    expert = model.experts[line.expert]
    at = 7
    q = word(expert, POINTS)
    tangent = line.table(expert, float(q[at])).over(POINTS)
    # where the word is the sum itself; a floor lifts the line, not its tangent
    plain = q == np.maximum(expert.over(POINTS), LEAST)
    gap = (tangent - values(line, model)) - (tangent - values(line, model))[at]
    assert plain[at] and gap[plain].min() > -1e-8


@pytest.mark.parametrize("seed", range(3))
def test_steps_from_tangent_to_tangent_only_fall_and_end_near_the_best(seed: int) -> None:
    model, belief, _, _ = setting(seed)
    bills = synthetic.bills(COUNTS)
    solver = Solver(model=model, experts=model.experts, bills=bills, nodes=1000)
    line = likeliest(belief, model)
    every = values(line, model)
    index = {tuple(p): i for i, p in enumerate(POINTS.tolist())}
    for limits in synthetic.levels(bills, COUNTS, count=4):
        inside = bills["size"].over(POINTS) <= limits["size"]
        start = tuple(int(o) for o in POINTS[inside][0])
        path = [start]
        for steps in (1, 2, 3):
            path.append(solver.least(line, limits, start=start, steps=steps))
        found = [every[index[p]] for p in path]
        assert all(bills["size"].of(p) <= limits["size"] for p in path)
        assert found[3] <= found[0] + 0.02 and found[3] <= every[inside].min() + 0.15
