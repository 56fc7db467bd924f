"""Laws of histograms: what is stored is nearly what is counted, and soft counts are hard ones.

Faults these must catch: a wrong unit of the stored costs; a code that does not occur given a share
or one that does given none; a soft count that loses mass; a gradient of the wrong sign.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from allot.num import histogram

counts = st.lists(st.integers(0, 5000), min_size=1, max_size=40).filter(any)


@given(counts)
def test_stored_shares_are_within_a_sixteenth_of_a_bit(found: list[int]) -> None:
    n = np.array(found)
    table = histogram.costs(n)
    weights = histogram.weights(table)
    assert ((weights > 0) == (n > 0)).all() and ((table == histogram.ABSENT) == (n == 0)).all()
    seen = n > 0
    off = np.log2(weights[seen] / 2**24) - np.log2(n[seen] / n.sum())
    assert np.abs(off).max() <= 1 / 16 + 1e-4


@given(counts)
def test_what_is_stored_costs_little_more_than_the_entropy(found: list[int]) -> None:
    n = np.array(found)
    bits = histogram.stored_bits(n, histogram.costs(n))
    least = histogram.entropy_bits(n)
    assert least - 1e-6 <= bits - 8 * len(n) <= least + 0.002 * n.sum() + 1e-6


def test_entropy_by_hand() -> None:
    # a half, a quarter, a quarter: 1.5 bits each
    assert histogram.entropy_bits(np.array([4, 2, 2])) == pytest.approx(12)
    assert histogram.entropy_bits(np.array([0, 9])) == 0
    assert histogram.entropy_bits(np.array([0])) == 0


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=30))
def test_on_whole_numbers_soft_is_hard(found: list[int]) -> None:
    x = torch.tensor(found, dtype=torch.float64)
    hard = np.bincount(np.array(found) + 4, minlength=9)
    assert torch.equal(histogram.soft_counts(x, -4, 4), torch.from_numpy(hard).double())
    assert float(histogram.soft_bits(x, -4, 4)) == pytest.approx(histogram.entropy_bits(hard))


@given(st.lists(st.floats(-6, 6), min_size=1, max_size=30))
def test_soft_counts_share_everything_out(found: list[float]) -> None:
    n = histogram.soft_counts(torch.tensor(found, dtype=torch.float64), -4, 4)
    assert float(n.min()) >= 0 and float(n.sum()) == pytest.approx(len(found))
    mean = torch.tensor(found, dtype=torch.float64).clamp(-4, 4).mean()
    assert float((n * torch.arange(-4, 5)).sum() / len(found)) == pytest.approx(float(mean))


def test_its_gradient_leads_to_the_code_that_is_there_already() -> None:
    x = torch.tensor([0.0] * 20 + [0.6, -0.6, 1.0], dtype=torch.float64, requires_grad=True)
    histogram.soft_bits(x, -3, 3).backward()
    assert x.grad is not None
    assert float(x.grad[20]) > 0 > float(x.grad[21])


def test_the_gradient_is_that_of_differences() -> None:
    x = torch.randn(40, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x.requires_grad_()
    assert torch.autograd.gradcheck(lambda v: histogram.soft_bits(v, -4, 4), (x,))
