"""Laws of blocks: what kernels read stands for exactly what was encoded.

Faults these must catch: codes in another order, a shift that is not half the range, rows that run
into one another, zero points of one row read into the next.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from allot.num import blocks
from allot.num.clipping import MinMax
from allot.num.formats import Encoded, Float16, Float32, Format, Int, UInt
from allot.num.minifloat import Minifloat
from allot.num.rounding import Nearest

FORMATS = [
    Format(
        grid=UInt(bits=bits) if zeros else Int(bits=bits), group=group, asymmetric=zeros,
        scales=Float16(),
    )
    for bits in (2, 3, 4, 6, 8)
    for group in (16, 64)
    for zeros in (False, True)
]  # fmt: skip


def encoded(fmt: Format, rows: int = 5, k: int = 192) -> Encoded:
    w = torch.randn(rows, k, generator=torch.Generator().manual_seed(0))
    fit = MinMax().fit(w, fmt)
    wide = fmt.spread(fit.scale, k)
    shift = torch.zeros(()) if fit.zero is None else fmt.spread(fit.zero, k)
    codes = Nearest().codes(w + wide * shift, wide, fmt.grid, None)
    return Encoded(format=fmt, codes=codes, scale=fit.scale, zero=fit.zero)


@pytest.mark.parametrize("fmt", FORMATS, ids=lambda f: f"{f.grid}{f.group}")
def test_blocks_stand_for_what_was_encoded(fmt: Format) -> None:
    matrix = encoded(fmt)
    found = blocks.blocks(matrix)
    assert {k: list(v.shape) for k, v in found.items()} == blocks.dims(fmt, 5, 192)
    back = blocks.values(
        found["blocks"], found["scales"], found.get("zeros"), bits=blocks.width(fmt)
    )
    np.testing.assert_array_equal(back, matrix.values().numpy())


def test_a_gain_goes_into_the_scales() -> None:
    matrix, gain = encoded(FORMATS[-1]), torch.tensor([1.0, 2.0, -4.0, 0.5, 8.0])
    plain, scaled = blocks.blocks(matrix), blocks.blocks(matrix, gain=gain)
    np.testing.assert_array_equal(scaled["scales"], plain["scales"] * gain[:, None].numpy())
    np.testing.assert_array_equal(scaled["blocks"], plain["blocks"])


@pytest.mark.parametrize("bits", blocks.WIDTHS)
@pytest.mark.parametrize("n", [1, 3, 8])
def test_apart_is_the_inverse_of_together(bits: int, n: int) -> None:
    rng = np.random.default_rng(bits)
    codes = rng.integers(0, 2**bits, (4, n)).astype(np.uint8)
    data = blocks.together(codes, bits)
    assert data.shape == (4, -(-n * bits // 8))
    np.testing.assert_array_equal(blocks.apart(data, bits)[:, :n], codes)
    assert not blocks.apart(data, bits)[:, n:].any()


def test_the_first_code_lies_in_the_lowest_bits() -> None:
    assert blocks.together(np.array([1, 2, 3, 4], dtype=np.uint8), 4).tolist() == [0x21, 0x43]
    assert blocks.together(np.array([1, 2, 3, 0], dtype=np.uint8), 2).tolist() == [0b00111001]


def test_what_fits_is_integers_in_groups_that_kernels_have() -> None:
    fits = Format(grid=Int(bits=4), group=32)
    assert blocks.fits(fits) and blocks.fits(replace(fits, scales=Float32()))
    others = (
        replace(fits, group=0), replace(fits, group=48),
        replace(fits, grid=Minifloat(exponent=2, mantissa=1)),
    )  # fmt: skip
    assert not any(blocks.fits(f) for f in others)


def test_a_code_takes_the_next_width_there_is_a_kernel_for() -> None:
    widths = [blocks.width(Format(grid=Int(bits=b), group=32)) for b in range(2, 9)]
    assert widths == [2, 4, 4, 8, 8, 8, 8]
