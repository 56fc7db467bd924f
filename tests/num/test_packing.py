"""Laws of packing: as many bytes as the account says, and from them the same matrix bit for bit.

Faults these laws must catch: a part forgotten or padded twice; unsigned codes that wrap; a book
that does not come back; scales rounded on the way; bytes that stand for no code read as another.
"""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from allot import part
from allot.errors import ArtefactError, InputError
from allot.num.codebook import Codebook
from allot.num.formats import Encoded, Float16, Float32, Format, Grid, Int, Scales, UInt
from allot.num.minifloat import Minifloat
from allot.num.packing import packed, unpacked
from allot.num.powers import Binary, Log2, LogSqrt2, Power, Ternary
from allot.num.scale_formats import Fp8Scales, PowerOfTwo, mx, nvfp4

GRIDS: tuple[Grid, ...] = (
    *(Int(bits=b) for b in range(2, 9)),
    *(UInt(bits=b) for b in range(1, 9)),
    *(Minifloat(exponent=e, mantissa=m) for e, m in ((2, 1), (3, 0), (3, 2), (4, 3), (5, 2))),
    Power(bits=5, exponent=0.37),
    Log2(bits=4),
    Log2(bits=3, signed=False),
    LogSqrt2(bits=8, signed=False),
    Ternary(),
    Binary(),
    Codebook(bits=1, book=(-0.5, 2.0)),
    Codebook(bits=3, book=(-1.0, 0.0, 0.25, 0.5, 1.0)),
)
STORES: tuple[Scales, ...] = (Float32(), Float16(), PowerOfTwo(), Fp8Scales())


def held(grid: Grid, group: int = 0, scales: Scales = STORES[0], seed: int = 0) -> Encoded:
    """A matrix [5, 24] with codes from end to end."""
    g = torch.Generator().manual_seed(seed)
    fmt = Format(grid=grid, group=group, scales=scales, asymmetric=isinstance(grid, UInt))
    shape = fmt.shape(5, 24)
    codes = torch.randint(grid.lo, grid.hi + 1, (5, 24), generator=g).float()
    codes[0, :2] = torch.tensor([float(grid.lo), float(grid.hi)])
    zero = torch.randint(grid.lo, grid.hi + 1, shape, generator=g).float()
    scale = scales.rounded(torch.randn(shape, generator=g).exp())
    return Encoded(format=fmt, codes=codes, scale=scale, zero=zero if fmt.asymmetric else None)


def same(a: Encoded, b: Encoded) -> bool:
    """Equal bit for bit, in everything."""
    zeros = a.zero is b.zero is None or (
        a.zero is not None and b.zero is not None and torch.equal(a.zero, b.zero)
    )
    whole = torch.equal(a.codes, b.codes) and torch.equal(a.scale, b.scale)
    return a.format == b.format and whole and zeros and torch.equal(a.values(), b.values())


@pytest.mark.parametrize("scales", STORES, ids=repr)
@pytest.mark.parametrize("group", (0, -1, 8))
@pytest.mark.parametrize("grid", GRIDS, ids=repr)
def test_the_bytes_are_as_many_as_counted_and_tell_the_matrix(
    grid: Grid, group: int, scales: Scales
) -> None:
    matrix = held(grid, group, scales)
    data = packed(matrix)
    assert data.dtype == np.uint8 and matrix.format.stored_bytes(5, 24) == len(data)
    back = unpacked(data, matrix.format, 5, 24)
    assert same(matrix, back)
    assert back.codes.dtype == back.scale.dtype == torch.float32


@pytest.mark.parametrize("grid", GRIDS, ids=repr)
def test_every_code_leaves_other_bytes(grid: Grid) -> None:
    matrix = held(grid)
    seen = set()
    for code in range(grid.lo, grid.hi + 1):
        codes = matrix.codes.clone()
        codes[2, 3] = code
        seen.add(packed(replace(matrix, codes=codes)).tobytes())
    assert grid.hi - grid.lo + 1 == len(seen)


def test_parts_stand_in_the_order_that_is_documented() -> None:
    # by hand: signs of 5 x 1 in one byte, lowest first, -1 as 1; the float32 1.0 and 2.0 ...
    fmt = Format(grid=Binary(), scales=Float16())
    signs = torch.tensor([[-1.0], [0.0], [0.0], [-1.0], [-1.0]])
    scale = torch.tensor([1.0, 2.0, -2.0, 0.5, 1.0])[:, None]
    data = packed(Encoded(format=fmt, codes=signs, scale=scale))
    halves = [0x00, 0x3C, 0x00, 0x40, 0x00, 0xC0, 0x00, 0x38, 0x00, 0x3C]
    assert [0b11001, *halves] == data.tolist()


def test_zero_points_take_their_own_bits_at_the_end() -> None:
    matrix = held(UInt(bits=4), group=8)
    assert matrix.zero is not None
    data, moved = (packed(replace(matrix, zero=z)) for z in (matrix.zero, 15 - matrix.zero))
    assert 5 * 24 // 2 + 5 * 3 * 4 + -(-5 * 3 * 4 // 8) == len(data)
    different = np.flatnonzero(data != moved)
    assert different.min() >= len(data) - 8 and len(different) == 8


def test_an_unfitted_format_reads_the_book_from_the_bytes() -> None:
    matrix = held(Codebook(bits=3, book=(-1.0, 0.0, 0.25, 0.5, 1.0)), group=8)
    asked = replace(matrix.format, grid=Codebook(bits=3))
    assert same(matrix, unpacked(packed(matrix), asked, 5, 24))
    again = part.load(json.loads(json.dumps(asked.dump())))
    assert same(matrix, unpacked(packed(matrix), again, 5, 24))


@pytest.mark.parametrize("fmt", (mx(Minifloat(exponent=2, mantissa=1)), nvfp4()), ids=repr)
def test_block_formats_come_back(fmt: Format) -> None:
    w = torch.randn(3, 64, generator=torch.Generator().manual_seed(0))
    scale = fmt.scales.rounded(w.view(3, fmt.shape(3, 64)[1], -1).abs().amax(2) / 6)
    codes = fmt.grid.nearest(w / fmt.spread(scale, 64))
    matrix = Encoded(format=fmt, codes=codes, scale=scale)
    assert same(matrix, unpacked(packed(matrix), fmt, 3, 64))


def test_streams_that_end_inside_a_byte_come_back() -> None:
    for rows, k in ((1, 1), (3, 7), (7, 3)):
        fmt = Format(grid=Int(bits=3))
        g = torch.Generator().manual_seed(0)
        codes = torch.randint(-4, 4, (rows, k), generator=g).float()
        matrix = Encoded(format=fmt, codes=codes, scale=torch.ones(rows, 1))
        data = packed(matrix)
        assert -(-rows * k * 3 // 8) + 4 * rows == len(data)
        assert same(matrix, unpacked(data, fmt, rows, k))


@pytest.mark.parametrize("grid", GRIDS, ids=repr)
def test_codes_that_a_grid_does_not_have_are_refused(grid: Grid) -> None:
    matrix = held(grid)
    for code in (grid.lo - 1, grid.hi + 1, grid.lo + 0.5, float("nan")):
        codes = matrix.codes.clone()
        codes[1, 1] = code
        with pytest.raises(InputError, match=f"codes {grid.lo} to {grid.hi}"):
            packed(replace(matrix, codes=codes))


def test_scales_that_are_not_as_stored_are_refused() -> None:
    for scales in STORES[1:]:
        matrix = held(Int(bits=4), scales=scales)
        with pytest.raises(InputError, match=r"rounded gives them"):
            packed(replace(matrix, scale=matrix.scale * 1.01))
    with pytest.raises(InputError, match=r"\[5, 1\] numbers"):
        packed(replace(held(Int(bits=4)), scale=torch.ones(5)[None]))
    with pytest.raises(InputError, match=r"rounded gives them"):
        packed(replace(held(Int(bits=4)), scale=torch.full((5, 1), 0.1, dtype=torch.float64)))


def test_zero_points_without_need_or_missing_ones_are_refused() -> None:
    for matrix, zero in ((held(UInt(bits=4)), None), (held(Int(bits=4)), torch.zeros(5, 1))):
        with pytest.raises(InputError, match="zero points"):
            packed(replace(matrix, zero=zero))


def test_a_wrong_length_is_refused() -> None:
    data, fmt = packed(held(Int(bits=4))), held(Int(bits=4)).format
    for wrong in (data[:-1], np.append(data, np.uint8(0))):
        with pytest.raises(ArtefactError, match="takes 80 bytes"):
            unpacked(wrong, fmt, 5, 24)


@pytest.mark.parametrize(
    ("grid", "byte"),
    [
        (Int(bits=8), 0b10000000),  # -128
        (Minifloat(exponent=2, mantissa=1), 0b00001000),  # -8, of -7 .. 7
        (Ternary(), 0b00000010),  # -2
        (Codebook(bits=3, book=(-1.0, 0.0, 0.25, 0.5, 1.0)), 0b00000100),  # -4, of -2 .. 2
        (Codebook(bits=3, book=(-1.0, 0.0, 0.25, 0.5, 1.0)), 0b00000011),  # 3
    ],
    ids=repr,
)
def test_bytes_that_stand_for_no_code_are_refused(grid: Grid, byte: int) -> None:
    matrix = held(grid)
    data = packed(matrix)
    data[0] = byte
    with pytest.raises(ArtefactError, match="the bytes hold others"):
        unpacked(data, matrix.format, 5, 24)


def test_a_spoilt_book_is_refused() -> None:
    matrix = held(Codebook(bits=1, book=(-0.5, 2.0)))
    data = packed(matrix)
    data[15:19] = 0xFF  # after 120 bits of codes: two numbers that are none
    with pytest.raises(InputError, match="finite"):
        unpacked(data, matrix.format, 5, 24)
