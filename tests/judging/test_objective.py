"""Laws of the objective: its mean is the distance, its spread the error, its gradient the slope.

Faults these must catch: a transport the wrong way round, a shift counted half, a covariance of
n - 1, values of the samples in another order.
"""

from __future__ import annotations

import math
import pickle

import pytest
import torch
from judges import cloud, eye, images, turned

from allot.errors import InputError
from allot.judging.frechet import RIDGE, Moments, distance
from allot.judging.judge import read
from allot.judging.objective import FrechetToOriginal, influences


def whole(f: torch.Tensor, g: torch.Tensor, weight: float) -> float:
    """The objective by its definition."""
    a, b = f - f.mean(0), g - g.mean(0)
    n, d = f.shape
    covariances = [a.T @ a / n, b.T @ b / n]
    ridge = RIDGE * float(sum(c.trace() for c in covariances)) / (2 * d) * torch.eye(d).double()
    found = distance(*[
        Moments(mean=x.mean(0), covariance=c + ridge)
        for x, c in zip((f, g), covariances, strict=True)
    ])  # fmt: skip
    return float(found) + weight * float((g - f).pow(2).sum(1).mean())


@pytest.mark.parametrize("weight", [0.0, 0.1, 2.0])
@pytest.mark.parametrize("n", [5, 80])
def test_the_mean_is_the_objective_fewer_samples_than_features_too(n: int, weight: float) -> None:
    f = cloud(n, 8, seed=1)
    g = 0.9 * f + 0.3 * cloud(n, 8, seed=2) + 0.1
    found = influences(f, g, weight=weight)
    assert found.shape == (n,) and found.dtype == torch.float64
    assert float(found.mean()) == pytest.approx(whole(f, g, weight), rel=1e-6)


def test_the_ridge_is_too_small_to_matter() -> None:
    f = cloud(200, 6, seed=1)
    g = 0.9 * f + 0.3 * cloud(200, 6, seed=2) + 0.1
    a, b = (Moments(mean=x.mean(0), covariance=torch.cov(x.T, correction=0)) for x in (f, g))
    plain = float(distance(a, b))
    assert float(influences(f, g, weight=0).mean()) == pytest.approx(plain, rel=1e-4)


@pytest.mark.parametrize("n", [1, 2, 5, 80])
def test_equal_samples_lose_nothing(n: int) -> None:
    f = 5 * cloud(n, 8)
    assert influences(f, f).abs().max() < 1e-7


def test_the_mean_is_never_negative_and_one_orthogonal_map_changes_nothing() -> None:
    q = turned(6)
    for seed in range(10):
        f, g = cloud(30, 6, seed=seed), cloud(30, 6, seed=seed + 50, shift=0.1 * seed)
        found = influences(f, g)
        assert found.mean() >= 0
        assert torch.allclose(influences(f @ q, g @ q), found, rtol=1e-5, atol=1e-6)


def test_samples_keep_their_places() -> None:
    f, g = cloud(40, 5, seed=1), cloud(40, 5, seed=2)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    assert torch.allclose(influences(f[order], g[order]), influences(f, g)[order], atol=1e-8)


def test_a_shift_is_worse_than_noise_of_the_same_size() -> None:
    f, noise = cloud(400, 4, seed=1), cloud(400, 4, seed=2)
    noise = noise / noise.pow(2).sum(1).mean().sqrt()
    shift = torch.full((4,), 0.5).double()
    assert influences(f, f + shift).mean() > 3 * influences(f, f + noise).mean()


def test_the_spread_is_the_standard_error_of_the_mean() -> None:
    def world(seed: int) -> torch.Tensor:
        g = torch.Generator().manual_seed(seed)
        f = torch.randn(400, 3, generator=g, dtype=torch.float64)
        noise = torch.randn(400, 3, generator=g, dtype=torch.float64)
        return influences(f, 0.8 * f + 0.2 * noise + 0.3, weight=0.1)

    found = [world(seed) for seed in range(200)]
    seen = torch.stack([x.mean() for x in found]).std()
    said = torch.stack([x.std() / math.sqrt(len(x)) for x in found]).mean()
    # a deviation from 200 worlds is known to about 5 %
    assert float(said / seen) == pytest.approx(1, abs=0.15)


def test_the_gradient_of_the_mean_is_the_slope_of_the_objective() -> None:
    f = cloud(12, 3, seed=1)
    g = (0.9 * f + 0.3 * cloud(12, 3, seed=2)).requires_grad_(True)
    (grad,) = torch.autograd.grad(influences(f, g, weight=0.2).mean(), g)
    step = 1e-5 * cloud(12, 3, seed=3)
    up, down = (whole(f, g.detach() + s * step, 0.2) for s in (1, -1))
    assert float((grad * step).sum()) == pytest.approx((up - down) / 2, rel=1e-4)


def test_of_samples_it_is_that_of_what_the_judge_sees_and_travels_to_workers() -> None:
    j, x, y = eye(), images(30), images(30, seed=4)
    divergence = pickle.loads(pickle.dumps(FrechetToOriginal(judge=j, weight=0.3)))
    f, g = read(j, x).features, read(j, y).features
    assert torch.equal(divergence(x, y), influences(f, g, weight=0.3))
    with pytest.raises(InputError, match="same noises"):
        divergence(x, y[:3])
