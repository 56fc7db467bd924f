"""Laws of scales: least error on a grid of scales, rows for themselves, zero exact.

Faults these laws must catch: a search that leaves out the covering scale; curvature that is
ignored; a range that excludes zero; a row that borrows its neighbour's scale; a lost sign.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from allot.num.formats import Int, UInt, decode, encode
from allot.num.scales import row_scale, tensor_scale

BITS = range(2, 9)


def matrix(rows: int = 6, k: int = 30, seed: int = 0) -> Tensor:
    """Rows of different size, some lopsided."""
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(rows, k, generator=g, dtype=torch.float64)
    w[1::2] = w[1::2].abs()
    return w * 3.0 ** torch.arange(rows, dtype=torch.float64)[:, None]


def error(w: Tensor, scale: Tensor, fmt: Int, weight: Tensor | None = None) -> Tensor:
    """Weighted squared error of every row: [rows]."""
    change = (decode(encode(w, scale, fmt), scale) - w).square()
    return (change if weight is None else change * weight).sum(1)


@pytest.mark.parametrize("bits", BITS)
def test_never_worse_than_the_scale_that_covers_the_row(bits: int) -> None:
    fmt, w = Int(bits=bits), matrix()
    cover = w.abs().amax(1) / fmt.hi
    got, bound = error(w, row_scale(w, fmt), fmt), error(w, cover, fmt)
    assert bool((got <= bound * (1 + 1e-9)).all()), (got / bound).max()


@pytest.mark.parametrize("bits", (2, 3, 4))
def test_few_bits_gain_by_clipping(bits: int) -> None:
    fmt, w = Int(bits=bits), matrix(6, 300)
    cover = w.abs().amax(1) / fmt.hi
    assert bool((error(w, row_scale(w, fmt), fmt) < 0.8 * error(w, cover, fmt)).all())


@pytest.mark.parametrize("bits", (2, 3, 4, 5))
def test_near_the_best_of_a_fine_search(bits: int) -> None:
    fmt, w = Int(bits=bits), matrix(4, 60)
    cover = w.abs().amax(1) / fmt.hi
    factors = torch.linspace(0.1, 1.2, 800).tolist()
    fine = [error(w, cover * s * f, fmt) for s in (1, -1) for f in factors]
    best = torch.stack(fine).amin(0)
    assert bool((error(w, row_scale(w, fmt), fmt) <= 1.15 * best).all())


@pytest.mark.parametrize("bits", BITS)
def test_curvature_decides_where_the_error_goes(bits: int) -> None:
    fmt, w = Int(bits=bits), matrix()
    weight = torch.ones(w.shape[1], dtype=torch.float64)
    weight[:5] = 1e6
    got = error(w, row_scale(w, fmt, weight=weight), fmt, weight)
    assert bool((got <= error(w, row_scale(w, fmt), fmt, weight) * (1 + 1e-9)).all())
    assert bool((got < 0.9 * error(w, row_scale(w, fmt), fmt, weight)).any())


@pytest.mark.parametrize("bits", BITS)
def test_a_uniform_curvature_is_no_curvature(bits: int) -> None:
    fmt, w = Int(bits=bits), matrix()
    same = torch.full((len(w), w.shape[1]), 4.0, dtype=torch.float64)
    assert torch.equal(row_scale(w, fmt), row_scale(w, fmt, weight=same))


@pytest.mark.parametrize("bits", BITS)
def test_a_larger_row_has_a_larger_scale(bits: int) -> None:
    fmt, w = Int(bits=bits), matrix()
    factor = 2.0 ** torch.arange(-3, len(w) - 3, dtype=torch.float64)
    assert torch.equal(row_scale(w, fmt) * factor, row_scale(w * factor[:, None], fmt))


@pytest.mark.parametrize("bits", BITS)
def test_rows_are_scaled_each_for_itself(bits: int) -> None:
    fmt, w = Int(bits=bits), matrix()
    order = torch.tensor([3, 0, 5, 1, 4, 2])
    assert torch.equal(row_scale(w, fmt)[order], row_scale(w[order], fmt))


@pytest.mark.parametrize("bits", BITS)
def test_columns_may_be_taken_in_any_order(bits: int) -> None:
    fmt, w = Int(bits=bits), matrix()
    a, b = row_scale(w, fmt), row_scale(w.flip(1), fmt)
    assert torch.allclose(error(w, a, fmt), error(w, b, fmt), rtol=1e-12)


@pytest.mark.parametrize("bits", range(2, 8))
def test_the_odd_code_lies_on_the_side_that_needs_it(bits: int) -> None:
    fmt, w = Int(bits=bits), matrix().abs()
    values = decode(encode(w, row_scale(w, fmt), fmt), row_scale(w, fmt))
    mirrored = decode(encode(-w, row_scale(-w, fmt), fmt), row_scale(-w, fmt))
    assert torch.equal(values, -mirrored)
    assert bool((row_scale(w, fmt) < 0).any()) and bool((values >= 0).all())


def test_eight_bits_have_positive_scales() -> None:
    assert bool((row_scale(-matrix().abs(), Int(bits=8)) > 0).all())


@pytest.mark.parametrize("bits", BITS)
def test_a_row_of_zeros_has_scale_one_and_stays_zero(bits: int) -> None:
    fmt, w = Int(bits=bits), matrix()
    w[2] = 0
    scale = row_scale(w, fmt)
    assert float(scale[2]) == 1 and not encode(w, scale, fmt)[2].any()


@pytest.mark.parametrize("bits", BITS)
def test_one_row_of_one_column_is_exact(bits: int) -> None:
    fmt, w = Int(bits=bits), torch.tensor([[-0.37]], dtype=torch.float64)
    assert torch.allclose(w, decode(encode(w, row_scale(w, fmt), fmt), row_scale(w, fmt)))


def test_the_weights_stay_as_they_are() -> None:
    w, weight = matrix(), matrix(1, 30)[0].abs()
    before = w.clone(), weight.clone()
    row_scale(w, Int(bits=3), weight=weight)
    assert torch.equal(before[0], w) and torch.equal(before[1], weight)


CASES = {
    "relu": torch.randn(4000, generator=torch.Generator().manual_seed(1)).clamp(min=0),
    "both": torch.randn(4000, generator=torch.Generator().manual_seed(2)) + 0.7,
    "below": -torch.rand(4000, generator=torch.Generator().manual_seed(3)) - 2,
    "above": torch.rand(4000, generator=torch.Generator().manual_seed(4)) + 5,
    "heavy": torch.randn(4000, generator=torch.Generator().manual_seed(5)) ** 5,
}


def fake(x: Tensor, scale: float, zero: int, bits: int) -> Tensor:
    """Quantized by hand."""
    code = ((x / scale).round() + zero).clamp(0, 2**bits - 1)
    return (code - zero) * scale


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("bits", (4, 6, 8))
def test_a_tensor_scale_is_never_worse_than_the_whole_range(name: str, bits: int) -> None:
    x = CASES[name]
    low, high = min(float(x.min()), 0), max(float(x.max()), 0)
    step = (high - low) / (2**bits - 1)
    whole = (fake(x, step, round(-low / step), bits) - x).square().mean()
    scale, zero = tensor_scale(x, float(x.min()), float(x.max()), UInt(bits=bits))
    assert float((fake(x, scale, zero, bits) - x).square().mean()) <= float(whole) * (1 + 1e-5)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("bits", (4, 6, 8))
def test_the_range_of_a_tensor_holds_zero_exactly(name: str, bits: int) -> None:
    x = CASES[name]
    scale, zero = tensor_scale(x, float(x.min()), float(x.max()), UInt(bits=bits))
    assert 0 <= zero <= 2**bits - 1 and scale > 0
    assert float(fake(torch.zeros(1), scale, zero, bits)) == 0


@pytest.mark.parametrize("bits", (4, 6, 8))
def test_values_of_one_sign_get_the_whole_grid(bits: int) -> None:
    for name, want in (("relu", 0), ("above", 0), ("below", 2**bits - 1)):
        x = CASES[name]
        assert want == tensor_scale(x, float(x.min()), float(x.max()), UInt(bits=bits))[1]


def test_a_tensor_of_zeros_has_a_scale() -> None:
    assert tensor_scale(torch.zeros(5), 0.0, 0.0, UInt(bits=8)) == (1.0, 0)


def test_heavy_tails_are_clipped() -> None:
    x = CASES["heavy"]
    scale, _ = tensor_scale(x, float(x.min()), float(x.max()), UInt(bits=4))
    assert scale < 0.9 * float(x.max() - x.min()) / 15
