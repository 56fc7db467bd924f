"""Laws of rotations.

Faults these must catch: a matrix that is not orthogonal, a fast transform of another order, blocks
that overlap, a seed without effect.
"""

from __future__ import annotations

import pytest
import torch

from allot.num.rotate import hadamard, orthogonal, power_of_two, random_hadamard, signs, transform

SIZES = (1, 2, 3, 8, 12, 96)


@pytest.mark.parametrize("size", SIZES)
def test_every_rotation_is_orthogonal_and_depends_on_its_seed(size: int) -> None:
    eye = torch.eye(size, dtype=torch.float64)
    for q in (random_hadamard(size, seed=3), orthogonal(size, seed=3)):
        assert torch.allclose(q @ q.T, eye, atol=1e-12)
    if size > 1:
        assert not torch.equal(random_hadamard(size, seed=0), random_hadamard(size, seed=1))
    assert torch.equal(random_hadamard(size, seed=5), random_hadamard(size, seed=5))


@pytest.mark.parametrize("size", (2, 8, 64))
def test_a_power_of_two_has_entries_of_one_size(size: int) -> None:
    assert torch.allclose(random_hadamard(size, seed=1).abs(), torch.tensor(size**-0.5).double())
    h = hadamard(size)
    assert torch.equal(h, h.T)


@pytest.mark.parametrize("size", SIZES)
def test_a_single_large_channel_is_spread(size: int) -> None:
    x = torch.zeros(size, dtype=torch.float64)
    x[0] = 1
    y = x @ random_hadamard(size, seed=2)
    assert float(y.abs().max()) <= (power_of_two(size)) ** -0.5 + 1e-12


@pytest.mark.parametrize(("size", "block"), [(8, 8), (12, 4), (96, 32), (6, 1), (24, 2)])
def test_the_fast_transform_is_the_product_with_blocks(size: int, block: int) -> None:
    x = torch.randn(3, 2, size, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    matrix = torch.block_diag(*[hadamard(block)] * (size // block))
    assert torch.allclose(transform(x, block), x @ matrix, atol=1e-12)
    assert torch.allclose(transform(transform(x, block), block), x, atol=1e-12)


def test_signs_are_signs_and_the_block_divides() -> None:
    assert set(signs(50, seed=0).tolist()) == {1.0, -1.0}
    assert [power_of_two(n) for n in (1, 2, 12, 96, 7, 64)] == [1, 2, 4, 32, 1, 64]
