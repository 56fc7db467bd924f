"""Evolve: populations of points, measured once each."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import numpy as np
import pytest

from allot.errors import MissingError
from allot.searchers.evolve import billed, evolve, nsga2, random, sized, uniform
from tests import synthetic
from tests.searchers.laws import COUNTS, LAWS, Searcher


@pytest.mark.parametrize("law", LAWS)
def test_laws(law: Callable[[Searcher], None]) -> None:
    pytest.importorskip("pymoo")
    law(partial(nsga2, generations=6))


def test_two_objectives_on_a_tiny_space_end_at_its_front() -> None:
    pytest.importorskip("pymoo")
    truth = synthetic.truth((3, 3, 3), seed=2)
    trials = synthetic.trials(truth)

    def costs(points: list[tuple[int, ...]]) -> np.ndarray:
        return np.column_stack([truth.divergences(points).mean(1), billed(trials, points)])

    every = costs(truth.points)
    front = {
        p
        for p, c in zip(truth.points, every, strict=True)
        if not ((every <= c).all(1) & (every < c).any(1)).any()
    }
    first = random((3, 3, 3), 20, seed=0)
    found = evolve((3, 3, 3), costs, first=first, generations=10, seed=0)  # type: ignore[arg-type]
    assert set(found) <= front
    assert len(found) >= 0.8 * min(len(front), 20)


def test_without_pymoo_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pymoo.algorithms.moo.nsga2", None)
    with pytest.raises(MissingError, match=r"allot\[bench\]"):
        nsga2(synthetic.trials(synthetic.truth(COUNTS)), harm=[], seed=0)


def test_uniform_plans_run_from_the_cheapest_to_the_original() -> None:
    points = uniform(COUNTS)
    assert points[0] == tuple(n - 1 for n in COUNTS) and points[-1] == (0,) * len(COUNTS)
    assert len(set(points)) == len(points)
    assert all(a >= b for p, q in pairwise(points) for a, b in zip(p, q, strict=True))


def test_random_points_are_distinct_and_of_the_space() -> None:
    points = random((2, 3), 40, seed=1)
    assert len(points) == len(set(points)) <= 6
    assert all(0 <= a < 2 and 0 <= b < 3 for a, b in points)


def test_populations_grow_with_what_may_be_spent() -> None:
    sizes = [sized(f) for f in (0.0, 32.0, 64.0, 512.0, float("inf"))]
    assert sizes == sorted(sizes) and sizes[0] == 8 and sizes[-1] == 64


def test_bills_are_relative_to_the_original() -> None:
    truth = synthetic.truth(COUNTS)
    trials = synthetic.trials(truth, products=True)
    found = billed(trials, truth.points)
    for row, p in zip(found.tolist(), truth.points, strict=True):
        assert row == [trials.bills[k].of(p) / trials.originals[k] for k in trials.bills]
