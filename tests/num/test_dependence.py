"""Laws of dependence: brute force, independence, what may be permuted, moved or scaled.

Faults these laws must catch: a kernel centred on one side alone; n in the place of n - 1; a
bandwidth that follows the unit; a median that counts a sample's distance to itself.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from allot.num.dependence import centred, gaussian, hsic, linear, standardized


def draws(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def brute(k: Tensor, l: Tensor) -> float:  # noqa: E741 - the paper's letter
    """Sums over pairs, triples and quadruples of samples, as the criterion is defined."""
    n = len(k)
    at = range(n)
    pairs = sum(float(k[i, j] * l[i, j]) for i, j in itertools.product(at, at))
    triples = sum(float(k[i, j] * l[i, m]) for i, j, m in itertools.product(at, at, at))
    fours = float(k.sum() * l.sum())
    return (pairs - 2 * triples / n + fours / n**2) / (n - 1) ** 2


@pytest.mark.parametrize("n", (2, 3, 7))
@pytest.mark.parametrize("kernel", (linear, gaussian))
def test_it_is_the_sum_over_all_quadruples(n: int, kernel: object) -> None:
    k, l = kernel(draws(n, 3)), linear(draws(n, 2, 1))  # type: ignore[operator]  # noqa: E741
    assert hsic(k, l) == pytest.approx(brute(k, l), rel=1e-9, abs=1e-12)


def test_with_linear_kernels_it_is_the_squared_cross_covariance() -> None:
    x, y = draws(20, 3) + 5, draws(20, 4, 1) - 2
    y[:, 0] += x[:, 1]
    cross = (x - x.mean(0)).T @ (y - y.mean(0)) / (len(x) - 1)
    assert hsic(linear(x), linear(y)) == pytest.approx(float(cross.square().sum()), rel=1e-9)


def test_it_asks_neither_for_the_order_of_samples_nor_for_which_comes_first() -> None:
    x, y = draws(15, 3), draws(15, 2, 1)
    order = torch.randperm(15, generator=torch.Generator().manual_seed(0))
    found = hsic(gaussian(x), linear(y))
    assert hsic(gaussian(x[order]), linear(y[order])) == pytest.approx(found, rel=1e-9)
    assert hsic(linear(y), gaussian(x)) == pytest.approx(found, rel=1e-9)
    assert hsic(gaussian(x[order]), linear(y)) != pytest.approx(found, rel=1e-3)


@pytest.mark.parametrize("n", (20, 80))
def test_of_independent_samples_it_is_the_number_of_entries_over_n(n: int) -> None:
    """2 x 3 covariances of unit variables, each of variance 1 / (n - 1): the bias, no more."""
    seeds = range(200)
    found = [hsic(linear(draws(n, 2, s)), linear(draws(n, 3, 1000 + s))) for s in seeds]
    assert sum(found) / len(found) == pytest.approx(2 * 3 / (n - 1), rel=0.15)


def test_independent_samples_are_near_zero_whatever_depends_not_linearly() -> None:
    x, other = draws(200, 2), draws(400, 2, 1)
    x = torch.cat([x, -x])  # no covariance with its square
    apart = hsic(gaussian(x), gaussian(other))
    assert 0 < apart < 0.005
    assert hsic(gaussian(x), gaussian(x.square())) > 10 * apart
    assert hsic(linear(x), linear(x.square())) < 1e-12


@pytest.mark.parametrize("kernel", (linear, gaussian))
def test_it_is_never_negative_and_zero_beside_a_constant(kernel: object) -> None:
    for seed in range(5):
        k = kernel(draws(9, 2, seed))  # type: ignore[operator]
        assert hsic(k, linear(draws(9, 3, 50 + seed))) >= 0
        still = kernel(torch.full((9, 2), 3.0))  # type: ignore[operator]
        assert hsic(k, still) == pytest.approx(0, abs=1e-15)
    assert hsic(torch.ones(1, 1), torch.ones(1, 1)) == 0


def test_rows_and_columns_of_what_is_centred_sum_to_zero_and_stay_so() -> None:
    k = centred(gaussian(draws(8, 3)))
    assert float(k.sum(0).abs().max()) < 1e-12 and float(k.sum(1).abs().max()) < 1e-12
    assert torch.allclose(centred(k), k, atol=1e-12)


def test_the_gaussian_kernel_asks_not_for_the_unit_nor_for_the_place() -> None:
    x = draws(12, 3)
    assert torch.allclose(gaussian(7 * x + 3), gaussian(x), atol=1e-9)
    k = gaussian(x)
    assert torch.allclose(k.diagonal(), torch.ones(12, dtype=torch.float64))
    assert bool((torch.linalg.eigvalsh(k) > -1e-9).all()) and float(k.min()) > 0
    apart = k[torch.ones(12, 12, dtype=torch.bool).triu(1)]
    assert float((apart >= torch.tensor(-1.0).exp() - 1e-12).double().mean()) == pytest.approx(
        0.5, abs=0.03
    )


def test_standardized_features_have_one_deviation_or_never_change() -> None:
    x = draws(30, 3) * torch.tensor([1e-3, 1.0, 1e4]) + 7
    x[:, 1] = 0.1
    got = standardized(x)
    assert torch.allclose(got.mean(0), torch.zeros(3, dtype=torch.float64), atol=1e-9)
    assert torch.allclose(
        got.square().mean(0), torch.tensor([1.0, 0, 1], dtype=torch.float64), atol=1e-9
    )
    assert not got[:, 1].any()
