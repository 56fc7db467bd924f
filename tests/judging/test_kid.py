"""Laws of the kernel distance: the defining sum, and no bias for equal populations.

Faults these must catch: pairs i = i counted, a biased estimate, another kernel,
blocks that overlap.
"""

from __future__ import annotations

import pytest
import torch
from judges import cloud

from allot.errors import DataError
from allot.judging.kid import blocks


def test_a_block_is_the_sum_over_pairs_of_its_definition() -> None:
    a, b = cloud(6, 3, seed=1), cloud(6, 3, seed=2)

    def k(x: torch.Tensor, y: torch.Tensor) -> float:
        return float((x @ y / 3 + 1) ** 3)

    pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
    terms = [k(a[i], a[j]) + k(b[i], b[j]) - k(a[i], b[j]) - k(a[j], b[i]) for i, j in pairs]
    assert blocks(a, b, count=1).tolist() == pytest.approx([sum(terms) / 30])


def test_blocks_are_apart_and_in_order() -> None:
    a, b = cloud(17, 3, seed=1), cloud(17, 3, seed=2)
    both = blocks(a, b, count=2)
    assert both[0] == blocks(a[:8], b[:8], count=1)[0]
    assert both[1] == blocks(a[8:16], b[8:16], count=1)[0]


@pytest.mark.parametrize("shared", [0.0, 0.8])
def test_equal_populations_have_distance_zero_on_average_paired_or_not(shared: float) -> None:
    own = (1 - shared**2) ** 0.5
    common, first, second = cloud(24000, 3, seed=1).split(8000)
    a, b = shared * common + own * first, shared * common + own * second
    found = blocks(a, b, count=1000)
    assert abs(float(found.mean())) < 4 * float(found.std()) / 1000**0.5


def test_a_shift_is_seen_and_the_same_set_is_not() -> None:
    a = cloud(800, 3, seed=1)
    found = blocks(a, a + 0.5)
    assert float(found.mean()) > 4 * float(found.std()) / len(found) ** 0.5
    assert blocks(a, a).abs().max() < 1e-12


def test_sets_of_other_sizes_and_too_few_samples_are_refused() -> None:
    with pytest.raises(DataError, match="one size"):
        blocks(cloud(64, 3), cloud(65, 3))
    with pytest.raises(DataError, match="at least 32"):
        blocks(cloud(31, 3), cloud(31, 3))
