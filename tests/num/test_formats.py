"""Laws of formats: b bits are 2^b values, what lies on a grid stays, rows are for themselves.

Faults these laws must catch: a grid one too long or short; codes that wrap instead of clipping;
an 8-bit code that has no negative; a scale taken along the wrong dim; a zero that moves.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from allot.num.formats import Int, UInt, decode, encode, rowwise

BITS = range(2, 9)


def matrix(rows: int = 5, k: int = 40, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(rows, k, generator=g, dtype=torch.float64)


def reach(fmt: Int) -> Tensor:
    """Every code that some weight, far out ones among them, is given: [n]."""
    w = torch.linspace(-1000, 1000, 80001, dtype=torch.float64)[None]
    return encode(w, torch.ones(1, dtype=torch.float64), fmt).unique()


@pytest.mark.parametrize("bits", range(2, 8))
def test_b_bits_are_two_to_the_b_values(bits: int) -> None:
    assert len(reach(Int(bits=bits))) == 2**bits


def test_eight_bits_are_all_codes_that_have_a_negative() -> None:
    codes = reach(Int(bits=8))
    assert len(codes) == 2**8 - 1 and torch.equal(codes, -codes.flip(0))


@pytest.mark.parametrize("bits", BITS)
def test_the_codes_of_b_bits_fit_into_b_bits_of_twos_complement(bits: int) -> None:
    codes = reach(Int(bits=bits))
    assert -(2**bits) <= 2 * float(codes.min()) and 2 * float(codes.max()) < 2**bits


@pytest.mark.parametrize("bits", (4, 6, 8))
def test_unsigned_codes_are_two_to_the_b_from_zero(bits: int) -> None:
    assert len(range(0, UInt(bits=bits).hi + 1)) == 2**bits


@pytest.mark.parametrize("bits", BITS)
def test_values_on_the_grid_survive(bits: int) -> None:
    fmt, scale = Int(bits=bits), torch.tensor([0.3, -0.7], dtype=torch.float64)
    codes = torch.arange(fmt.lo, fmt.hi + 1, dtype=torch.float64).expand(2, -1)
    assert torch.equal(codes, encode(decode(codes, scale), scale, fmt))


@pytest.mark.parametrize("bits", BITS)
def test_rounding_twice_is_rounding_once(bits: int) -> None:
    fmt, w = Int(bits=bits), matrix()
    scale = w.abs().amax(1) / fmt.hi * 0.8
    once = encode(w, scale, fmt)
    assert torch.equal(once, encode(decode(once, scale), scale, fmt))


@pytest.mark.parametrize("bits", BITS)
def test_the_error_inside_the_grid_is_at_most_half_a_step(bits: int) -> None:
    fmt, w = Int(bits=bits), matrix()
    scale = w.abs().amax(1) / fmt.hi
    error = (decode(encode(w, scale, fmt), scale) - w).abs().amax(1)
    assert bool((error <= scale / 2 * (1 + 1e-12)).all())
    assert bool((error > scale / 8).any())


@pytest.mark.parametrize("bits", BITS)
def test_no_other_code_is_nearer(bits: int) -> None:
    fmt, w = Int(bits=bits), matrix(3, 20)
    scale = torch.tensor([0.5, -0.5, 0.2], dtype=torch.float64)
    grid = torch.arange(fmt.lo, fmt.hi + 1, dtype=torch.float64)
    nearest = (grid[None, None] * scale[:, None, None] - w[:, :, None]).abs().amin(2)
    got = (decode(encode(w, scale, fmt), scale) - w).abs()
    assert torch.allclose(nearest, got, rtol=0, atol=1e-14)


@pytest.mark.parametrize("bits", BITS)
def test_zero_stays_zero(bits: int) -> None:
    scale = torch.tensor([0.3, -2.0], dtype=torch.float64)
    codes = encode(torch.zeros(2, 3, dtype=torch.float64), scale, Int(bits=bits))
    assert not codes.any() and not decode(codes, scale).any()


@pytest.mark.parametrize("bits", BITS)
def test_what_lies_outside_is_clipped_to_the_ends(bits: int) -> None:
    fmt = Int(bits=bits)
    far = torch.tensor([[1e6, -1e6]], dtype=torch.float64)
    codes = encode(far, torch.ones(1, dtype=torch.float64), fmt)
    assert [[float(fmt.hi), float(fmt.lo)]] == codes.tolist()
    other = encode(far, -torch.ones(1, dtype=torch.float64), fmt)
    assert [[float(fmt.lo), float(fmt.hi)]] == other.tolist()


def test_a_scale_belongs_to_a_row_whatever_the_number_of_dims() -> None:
    w, scale = matrix(4, 6), torch.tensor([1.0, 2.0, 3.0, -4.0], dtype=torch.float64)
    for shape in ((4, 6), (4, 2, 3), (4, 1, 2, 3)):
        want = torch.stack([row * s for row, s in zip(w, scale, strict=True)])
        assert torch.equal(want.view(shape), decode(w.view(shape), scale))
        assert rowwise(scale, w.view(shape)).dim() == len(shape)
