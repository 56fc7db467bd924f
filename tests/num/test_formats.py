"""Laws of formats: b bits are 2^b values, what lies on a grid stays, rows are for themselves.

Faults these laws must catch: a grid one too long or short; codes that wrap instead of clipping;
an 8-bit code that has no negative; a scale taken along the wrong dim; a zero that moves; a scale
shared by the wrong elements; a byte that is not counted; a group size offered that does not divide.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from allot.errors import InputError
from allot.num.formats import (
    Encoded,
    Float16,
    Float32,
    Format,
    Int,
    Scales,
    UInt,
    decode,
    dividing,
    encode,
    rowwise,
)

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


@pytest.mark.parametrize(("group", "shape"), [(0, (6, 1)), (-1, (1, 1)), (1, (6, 12)), (4, (6, 3)),
                                              (12, (6, 1))])  # fmt: skip
def test_scales_are_as_many_as_the_groups(group: int, shape: tuple[int, int]) -> None:
    fmt = Format(grid=Int(bits=4), group=group)
    assert shape == fmt.shape(6, 12)
    owner = fmt.spread(torch.arange(float(shape[0] * shape[1])).view(shape), 12).expand(6, 12)
    for row in range(6):
        for column in range(12):
            mine = (0 if group < 0 else row) * shape[1] + (column // group if group > 0 else 0)
            assert mine == owner[row, column]


@pytest.mark.parametrize(
    ("k", "group", "near"),
    [(48, 32, "24 or 48"), (27, 32, "27"), (64, 33, "32 or 64"), (7, 2, "1 or 7")],
)
def test_a_group_that_does_not_divide_is_told_the_nearest_that_do(
    k: int, group: int, near: str
) -> None:
    with pytest.raises(InputError, match=f"{group} do not divide .* {k}; {near} would"):
        Format(grid=Int(bits=4), group=group).shape(8, k)
    with pytest.raises(InputError, match=f"{near} would"):
        Format(grid=Int(bits=4), group=group).stored_bytes(8, k)


@pytest.mark.parametrize("k", range(1, 40))
def test_the_sizes_offered_divide_and_none_between_them_does(k: int) -> None:
    for group in range(1, 45):
        found = dividing(k, group)
        assert found and all(k % d == 0 for d in found)
        inside = [d for d in range(1, k + 1) if k % d == 0 and min(found) < d < max(found)]
        assert not inside and min(found) <= group and (max(found) >= group or max(found) == k)


@pytest.mark.parametrize("scales", (Float32(), Float16()), ids=repr)
@pytest.mark.parametrize("bits", range(2, 9))
def test_bytes_are_counted_part_by_part(bits: int, scales: Scales) -> None:
    each = scales.bits // 8
    for group, count in ((0, 5), (-1, 1), (7, 15)):
        fmt = Format(grid=Int(bits=bits), group=group, scales=scales)
        codes = len(range(0, 5 * 21 * bits, 8))  # 105 codes, the last byte perhaps partly empty
        assert codes + count * each == fmt.stored_bytes(5, 21)
        more = Format(grid=UInt(bits=bits), group=group, scales=scales, asymmetric=True)
        zeros = len(range(0, count * bits, 8))
        assert codes + count * each + zeros == more.stored_bytes(5, 21)


@pytest.mark.parametrize("group", (0, -1, 4))
@pytest.mark.parametrize("asymmetric", (False, True))
def test_a_matrix_is_its_codes_less_zero_points_times_scales(group: int, asymmetric: bool) -> None:
    fmt = Format(
        grid=UInt(bits=4) if asymmetric else Int(bits=4), group=group, asymmetric=asymmetric
    )
    g, shape = torch.Generator().manual_seed(0), fmt.shape(3, 8)
    codes = torch.randint(fmt.grid.lo, fmt.grid.hi + 1, (3, 8), generator=g).float()
    scale, zero = torch.rand(shape, generator=g) + 0.1, torch.randint(0, 16, shape, generator=g)
    got = Encoded(
        format=fmt, codes=codes, scale=scale, zero=zero.float() if asymmetric else None
    ).values()
    for row in range(3):
        for column in range(8):
            at = (0 if group < 0 else row, column // 4 if group > 0 else 0)
            moved = codes[row, column] - (zero[at] if asymmetric else 0)
            assert scale[at] * moved == got[row, column]


def test_zero_points_and_signed_grids_do_not_go_together() -> None:
    for grid, asymmetric in ((Int(bits=4), True), (UInt(bits=4), False)):
        with pytest.raises(InputError, match="zero points"):
            Format(grid=grid, asymmetric=asymmetric)
