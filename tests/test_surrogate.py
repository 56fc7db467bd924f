"""Laws of the surrogate: it knows what was measured, and believes the signal that foretold it.

Faults these laws must catch: a floor left out; pair products counted twice; residual weights laid
on the wrong option; an expert kept although another foretells better; a spread that does not
shrink where something was measured.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from allot import surrogate
from allot.surrogate import Model, believe, edges, word
from allot.table import Table, Term
from tests import synthetic

COUNTS = (3, 2, 4, 3)
POINTS = np.array(list(itertools.product(*map(range, COUNTS))), dtype=np.intp)


def model(truth: synthetic.Truth, *experts: Table) -> Model:
    return Model(counts=truth.counts, edges=edges(truth.counts, experts), experts=experts)


@pytest.mark.parametrize("seed", range(3))
def test_the_word_of_vectors_is_half_the_mean_square_of_the_sum(seed: int) -> None:
    truth = synthetic.truth(COUNTS, seed=seed)
    plain = 0.5 * np.array(
        [
            np.mean(np.sum([truth.first.of(i)[:, o] for i, o in enumerate(p)], axis=0) ** 2)
            for p in POINTS
        ]
    )
    floor = np.array([max(truth.first.half_squares(i)[o] for i, o in enumerate(p)) for p in POINTS])
    expected = np.maximum(np.maximum(plain, floor), surrogate.LEAST)
    np.testing.assert_allclose(word(truth.fisher(), POINTS), expected, rtol=1e-9)


def test_writing_all_pairs_out_changes_no_word() -> None:
    table = synthetic.truth(COUNTS, seed=4).fisher()
    written = table.with_pairs(len(COUNTS) ** 2)
    assert written.vectors is None and len(written.terms) > len(COUNTS)
    np.testing.assert_allclose(word(table, POINTS), word(written, POINTS), rtol=1e-9)


def test_no_word_is_below_the_largest_single_harm() -> None:
    single = (
        Term(at=(0,), values=np.array([0.0, 2.0])),
        Term(at=(1,), values=np.array([0.0, 1.0])),
    )
    pair = Term(at=(0, 1), values=np.array([[0.0, 0.0], [0.0, -9.0]]))
    table = Table(unit="nat", origin="by hand", terms=(*single, pair))
    points = np.array([[0, 0], [1, 0], [0, 1], [1, 1]])
    assert word(table, points).tolist() == [surrogate.LEAST, 2.0, 1.0, 2.0]


def test_residual_terms_are_the_weights_of_the_features() -> None:
    g = np.random.default_rng(0)
    m = Model(counts=COUNTS, edges=((0, 2), (1, 3)), experts=(synthetic.truth(COUNTS).alone(),))
    known = m.known(POINTS)
    own = g.normal(size=known.own.shape[1])
    table = Table(unit="nat", origin="residual", terms=m.residual(own))
    np.testing.assert_allclose(table.over(POINTS), known.own @ own, rtol=1e-9)
    assert np.allclose((known.own**2).sum(1), 1) and np.allclose((known.pairs**2).sum(1), 1)


@pytest.mark.parametrize("seed", range(3))
def test_it_knows_what_was_measured_and_is_unsure_elsewhere(seed: int) -> None:
    truth = synthetic.truth(COUNTS, seed=seed, third=0.3)
    m = model(truth, truth.fisher())
    logs = np.log(np.maximum(truth.means, surrogate.LEAST))
    rows = np.random.default_rng(seed).choice(len(POINTS), 20, replace=False)
    belief = believe(m.known(POINTS[rows]), logs[rows], np.zeros(20))
    mean, spread = belief.moments(m.known(POINTS))
    others = np.setdiff1d(np.arange(len(POINTS)), rows)
    assert np.abs(mean[rows] - logs[rows]).max() < 0.05
    assert spread[rows].max() < np.median(spread[others])
    np.testing.assert_allclose(belief.means(m.known(POINTS)), mean, rtol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_a_shuffled_signal_loses_its_weight(seed: int) -> None:
    truth = synthetic.truth((3,) * 5, seed=seed, third=0.2)
    honest = truth.fisher()
    g = np.random.default_rng(seed)
    shuffled = replace(
        truth.alone(),
        terms=tuple(replace(t, values=g.permutation(t.values)) for t in truth.alone().terms),
    )
    m = model(truth, shuffled, honest)
    rows = g.choice(len(truth.points), 40, replace=False)
    points = np.array(truth.points, dtype=np.intp)[rows]
    logs = np.log(np.maximum(truth.means[rows], surrogate.LEAST))
    belief = believe(m.known(points), logs, np.zeros(len(rows)))
    of_honest = sum(
        w
        for w, p in zip(belief.weights, belief.posteriors, strict=True)
        if p.hypothesis.expert == 1
    )
    assert of_honest > 0.95


def test_measured_plans_make_the_rest_better_foretold() -> None:
    truth = synthetic.truth((3,) * 6, seed=1, third=0.4)
    m = model(truth, truth.fisher())
    points = np.array(truth.points, dtype=np.intp)
    logs = np.log(np.maximum(truth.means, surrogate.LEAST))
    rows = np.random.default_rng(0).choice(len(points), 60, replace=False)
    belief = believe(m.known(points[rows]), logs[rows], np.zeros(60))
    others = np.setdiff1d(np.arange(len(points)), rows)
    before = np.log(word(truth.fisher(), points[others])) - logs[others]
    after = belief.means(m.known(points[others])) - logs[others]
    assert np.sqrt(np.mean(after**2)) < 0.7 * np.sqrt(np.mean(before**2))


def test_edges_are_all_pairs_of_a_small_space_and_the_largest_of_a_large_one() -> None:
    assert edges((3,) * 8, ()) == tuple(itertools.combinations(range(8), 2))
    truth = synthetic.truth((2,) * 24, seed=0, samples=128)
    found = edges(truth.counts, (truth.fisher(),))
    assert len(found) <= 72 and set(found) <= set(itertools.combinations(range(24), 2))
    size = {p: np.abs(truth.first.pair(*p)).max() for p in itertools.combinations(range(24), 2)}
    largest = sorted(size, key=lambda p: -size[p])[:20]
    assert set(largest) <= set(found)
