"""Laws of k-means: the best of all partitions, by trying them; means of what is nearest.

Faults these laws must catch: a cluster one value long or short; weights that are squared or
forgotten; values without weight that count; a local optimum where the exact one is promised; sums
that lose what all values share; chance.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from allot.errors import DataError
from allot.num.kmeans import fitted


def error(values: Tensor, weights: Tensor, book: Tensor) -> float:
    """Weighted squared distance to the nearest number of the book."""
    nearest = (values.double()[:, None] - book).square().amin(1)
    return float((weights.double() * nearest).sum())


def best(values: Tensor, weights: Tensor, count: int) -> float:
    """Least error of any assignment to `count` clusters, by trying all."""
    x, w = values.double().numpy(), weights.double().numpy()
    least = np.inf
    for assignment in itertools.product(range(count), repeat=len(x)):
        which, total = np.array(assignment), 0.0
        for c in set(assignment):
            mine = which == c
            mean = np.average(x[mine], weights=w[mine])
            total += float((w[mine] * (x[mine] - mean) ** 2).sum())
        least = min(least, total)
    return least


def drawn(n: int, seed: int) -> tuple[Tensor, Tensor]:
    g = torch.Generator().manual_seed(seed)
    return (torch.randn(n, generator=g, dtype=torch.float64),
            torch.rand(n, generator=g, dtype=torch.float64) + 0.01)  # fmt: skip


@pytest.mark.parametrize(("n", "bits"), [(9, 1), (3, 1), (6, 2), (5, 2)])
@pytest.mark.parametrize("seed", range(3))
def test_no_assignment_is_better(n: int, bits: int, seed: int) -> None:
    values, weights = drawn(n, seed)
    book = fitted(values, weights, bits)
    assert 2**bits == len(book)
    assert best(values, weights, 2**bits) == pytest.approx(error(values, weights, book), rel=1e-9)


@given(seed=st.integers(0, 9999), n=st.integers(20, 60), bits=st.integers(1, 4))
@settings(max_examples=30, deadline=None)
def test_no_other_contiguous_partition_is_better(seed: int, n: int, bits: int) -> None:
    values, weights = drawn(n, seed)
    found = error(values, weights, fitted(values, weights, bits))
    order = values.argsort()
    x, w = values[order], weights[order]
    rng = np.random.default_rng(seed)
    for _ in range(20):
        cuts = [0, *sorted(rng.choice(np.arange(1, n), 2**bits - 1, replace=False)), n]
        means = torch.stack([(x[a:b] * w[a:b]).sum() / w[a:b].sum()
                             for a, b in itertools.pairwise(cuts)])  # fmt: skip
        assert found <= error(x, w, means) * (1 + 1e-9)


@pytest.mark.parametrize("n", (200, 5000))
@pytest.mark.parametrize("bits", (1, 3, 6))
def test_every_number_is_the_mean_of_what_is_nearest_to_it(n: int, bits: int) -> None:
    values, weights = drawn(n, 7)
    book = fitted(values, weights, bits)
    which = (values[:, None] - book).abs().argmin(1)
    sums = torch.zeros_like(book).index_add(0, which, weights * values)
    mass = torch.zeros_like(book).index_add(0, which, weights)
    assert torch.allclose(book, sums / mass, rtol=1e-9, atol=1e-12)
    assert bool((book.diff() > 0).all()) and book.dtype == torch.float64


@pytest.mark.parametrize(("bits", "distortion"), [(1, 0.3634), (2, 0.1175), (3, 0.03454),
                                                  (4, 0.009497)])  # fmt: skip
def test_normal_values_get_the_quantizer_of_max(bits: int, distortion: float) -> None:
    # J. Max 1960, table I: least mean squared error of 2^bits levels for a unit normal
    values = torch.distributions.Normal(0.0, 1.0).icdf(
        (torch.arange(40000, dtype=torch.float64) + 0.5) / 40000
    )
    got = error(values, torch.ones_like(values), fitted(values, None, bits)) / 40000
    assert distortion == pytest.approx(got, rel=2e-3)


def test_many_values_are_put_almost_as_well_as_exactly() -> None:
    values, weights = drawn(1000, 3)
    exact = error(values, weights, fitted(values, weights, 4))
    # every value thrice, an unnoticeable bit apart: more distinct ones than the exact way takes
    near = torch.cat([values + d for d in (-1e-9, 0.0, 1e-9)])
    third = error(near, weights.repeat(3) / 3, fitted(near, weights.repeat(3) / 3, 4))
    assert exact <= third * (1 + 1e-6) and third <= 1.02 * exact


def test_a_weight_is_as_many_copies() -> None:
    values, _ = drawn(40, 5)
    times = torch.arange(40) % 4 + 1
    assert torch.allclose(
        fitted(values, times, 2), fitted(values.repeat_interleave(times), None, 2), rtol=1e-12
    )


def test_moving_and_stretching_values_does_the_same_to_the_numbers() -> None:
    values, weights = drawn(300, 6)
    book = fitted(values, weights, 3)
    assert torch.allclose(1e6 - 4 * book.flip(0), fitted(1e6 - 4 * values, weights, 3), rtol=1e-12)
    assert torch.allclose(book, fitted(values, 1e-9 * weights, 3), rtol=1e-12)


def test_order_does_not_matter_and_nothing_is_changed() -> None:
    values, weights = drawn(2000, 8)
    before = values.clone(), weights.clone()
    order = torch.randperm(2000, generator=torch.Generator().manual_seed(0))
    mixed = fitted(values[order], weights[order], 3)
    assert torch.allclose(fitted(values, weights, 3), mixed, rtol=1e-12)
    assert torch.equal(before[0], values) and torch.equal(before[1], weights)


def test_values_without_weight_do_not_count_unless_none_has_any() -> None:
    values, weights = drawn(50, 9)
    far = torch.cat((values, torch.tensor([1e5, -1e5], dtype=torch.float64)))
    light = torch.cat((weights, torch.zeros(2, dtype=torch.float64)))
    assert torch.equal(fitted(values, weights, 2), fitted(far, light, 2))
    assert torch.equal(fitted(values, None, 2), fitted(values, torch.zeros(50), 2))
    faint = torch.cat((weights, torch.full((2,), 1e-40, dtype=torch.float64)))
    assert torch.equal(fitted(values, weights, 2), fitted(far, faint, 2))


def test_few_distinct_values_are_the_numbers() -> None:
    values = torch.tensor([3.0, 1.0, 3.0, -2.0, 1.0])
    assert [-2.0, 1.0, 3.0] == fitted(values, None, 2).tolist()
    assert [4.0] == fitted(torch.full((7,), 4.0), None, 3).tolist()


def test_what_has_no_mean_is_refused() -> None:
    one = torch.ones(3)
    for values, weights in ((torch.tensor([1.0, torch.nan, 2.0]), None),
                            (torch.tensor([1.0, torch.inf, 2.0]), one),
                            (one, -one), (torch.zeros(0), None)):  # fmt: skip
        with pytest.raises(DataError, match="finite"):
            fitted(values, weights, 1)
