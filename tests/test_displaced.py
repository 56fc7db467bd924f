"""Laws of displacements put together: stretches, coordinates of the Frechet distance, sums."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from allot.displaced import Stretch, coordinates, stretches
from allot.judging.objective import influences


def test_stretches_say_where_steps_are_left_out_and_how_often_one_reuses() -> None:
    found = list(stretches([-1, None, None, 4, 4, -1, 4, None, 4, None]))
    assert [(s.step, s.option, s.gap) for s in found] == [
        (0, -1, 0), (3, 4, 2), (4, 4, 0), (5, -1, 0), (6, 4, 0), (8, 4, 1), (10, -1, 1),
    ]  # fmt: skip
    assert [s.run for s in found[:3]] == [0, 0, 1]
    # behind a gap it is no run that anybody measures, and neither is another kind of reuse
    assert found[5].run > 2
    assert list(stretches([-1, 4, 5]))[2].run > 2


def test_every_step_is_in_one_stretch() -> None:
    g = np.random.default_rng(0)
    for _ in range(50):
        ways = [-1, *((-1, 3, None)[k] for k in g.integers(3, size=12))]
        found = list(stretches(ways))
        assert sum(s.gap + 1 for s in found) == len(ways) + 1
        assert [s.option for s in found[:-1]] == [w for w in ways if w is not None]


@pytest.mark.parametrize("seed", range(4))
def test_small_moves_have_the_length_of_the_frechet_distance(seed: int) -> None:
    g = np.random.default_rng(seed)
    x = g.normal(size=(400, 5)) @ g.normal(size=(5, 5)) + 3
    move = 1e-3 * (x @ g.normal(size=(5, 5)) + g.normal(size=5))
    vector = coordinates(x, move[None])[0]
    want = influences(torch.tensor(x), torch.tensor(x + move), weight=0.0).mean()
    assert float(vector @ vector) == pytest.approx(float(want), rel=0.02)


def test_coordinates_are_linear_in_the_moves() -> None:
    g = np.random.default_rng(1)
    x, a, b = g.normal(size=(40, 6)), g.normal(size=(40, 6)), g.normal(size=(40, 6))
    found = coordinates(x, np.stack([a, b, 2 * a - 3 * b]))
    np.testing.assert_allclose(found[2], 2 * found[0] - 3 * found[1], atol=1e-9)


def test_a_shift_alone_counts_with_its_square() -> None:
    x = np.random.default_rng(2).normal(size=(30, 4))
    shift = np.array([0.3, 0.0, -0.1, 0.2])
    vector = coordinates(x, np.broadcast_to(shift, (1, 30, 4)))[0]
    assert float(vector @ vector) == pytest.approx(float(shift @ shift))


def test_stretches_are_compared_by_value() -> None:
    assert {Stretch(step=1, option=-1, gap=2): 0}[Stretch(step=1, option=-1, gap=2, run=0)] == 0
