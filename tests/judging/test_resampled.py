"""Laws of resampling: intervals hold the truth as often as they say, paired ones are narrower.

Faults these must catch: draws that are not with replacement, another draw for the second plan,
quantiles exchanged, the bias of a resampled Frechet distance left in.
"""

from __future__ import annotations

import math

import pytest
import torch
from judges import cloud
from scipy.stats import binom

from allot.errors import InputError
from allot.judging.frechet import Moments, distance, reweighted
from allot.judging.resampled import counts, estimate, mean_of, of_blocks

WORLDS = 80
# at a coverage of 95 % fewer than this has a chance of one in a thousand
LEAST = int(binom.ppf(0.001, WORLDS, 0.95))


def test_every_draw_is_n_samples_and_repeats_by_seed() -> None:
    c = counts(50, draws=2000, seed=1)
    assert c.sum(1).unique().tolist() == [50]
    assert torch.equal(c, counts(50, draws=2000, seed=1))
    assert not torch.equal(c, counts(50, draws=2000, seed=2))
    # of samples drawn with replacement a share of (1 - 1/n)^n is left out
    assert float((c == 0).double().mean()) == pytest.approx((1 - 1 / 50) ** 50, abs=0.005)


def test_the_interval_of_a_mean_is_nearly_the_normal_one() -> None:
    x = cloud(400, 1)[:, 0]
    found = estimate(mean_of(x), 400, draws=4000)
    half = 1.96 * float(x.std()) / 20
    assert found.value == pytest.approx(float(x.mean()))
    expected = (found.value - half, found.value + half)
    assert found.interval == pytest.approx(expected, abs=0.15 * half)


def test_the_interval_holds_the_true_mean_as_often_as_it_says() -> None:
    held = 0
    for world in range(WORLDS):
        x = cloud(100, 1, seed=world)[:, 0] * 0 + torch.distributions.Exponential(1.0).icdf(
            torch.rand(100, generator=torch.Generator().manual_seed(world)).double()
        )
        low, high = estimate(mean_of(x), 100, seed=world).interval
        held += low <= 1 <= high
    # skewed samples cost a little
    assert held >= LEAST - 3


def test_the_interval_of_a_biased_frechet_distance_holds_the_true_one() -> None:
    d, n, noise, held, plain = 8, 150, 0.5, 0, 0
    truth = d * (math.sqrt(1 + noise**2) - 1) ** 2
    for world in range(WORLDS // 2):
        g = torch.Generator().manual_seed(world)
        x = torch.randn(n, d, generator=g, dtype=torch.float64)
        y = x + noise * torch.randn(n, d, generator=g, dtype=torch.float64)

        def frechet(c: torch.Tensor, x: torch.Tensor = x, y: torch.Tensor = y) -> torch.Tensor:
            return distance(reweighted(x, c), reweighted(y, c))

        found = estimate(frechet, n, draws=100, seed=world)
        held += found.low <= truth <= found.high
        # what the quantiles themselves would have said
        plain += 2 * found.value - found.high <= truth <= 2 * found.value - found.low
    assert held >= binom.ppf(0.001, WORLDS // 2, 0.95)
    assert plain < held


def test_a_paired_difference_is_narrower_than_two_intervals() -> None:
    a = cloud(200, 1)[:, 0]
    b = a + 0.1 + 0.01 * cloud(200, 1, seed=5)[:, 0]
    first, second = mean_of(a), mean_of(b)
    found = estimate(lambda c: second(c) - first(c), 200)
    assert 0 < found.low < found.value < found.high
    alone = estimate(second, 200)
    assert found.high - found.low < 0.1 * (alone.high - alone.low)


def test_blocks_have_students_interval() -> None:
    found = of_blocks(torch.tensor([1.0, 2.0, 3.0]).double(), 30)
    assert found.value == 2 and found.n == 30
    assert found.high - 2 == pytest.approx(4.302653 / math.sqrt(3), rel=1e-6)


def test_an_infinite_figure_is_not_given_a_false_interval() -> None:
    found = estimate(lambda c: torch.full((len(c),), math.inf).double(), 10)
    assert found.value == math.inf and found.high == math.inf


def test_one_sample_has_no_interval() -> None:
    with pytest.raises(InputError, match="two samples"):
        estimate(mean_of(torch.ones(1)), 1)
    with pytest.raises(InputError, match="two blocks"):
        of_blocks(torch.ones(1), 1)


def test_moments_of_many_draws_have_one_root_each() -> None:
    c = counts(30, draws=5)
    many = reweighted(cloud(30, 3), c)
    assert isinstance(many, Moments) and many.root.shape == (5, 3, 3)
    assert torch.allclose(many.root @ many.root, many.covariance)
