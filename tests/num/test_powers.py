"""Laws of power grids: the values by hand, what exponent 1 is, what a shift multiplies by.

Faults these laws must catch: an exponent taken for its inverse; a grid that is not stretched to
its codes; a zero that is left out; a sign where there is none; an exponent that no file keeps.
"""

from __future__ import annotations

import math

import pytest
import torch

from allot.errors import InputError
from allot.num.formats import Encoded, Format
from allot.num.packing import packed, unpacked
from allot.num.powers import Binary, Log2, LogSqrt2, Power, Ternary


@pytest.mark.parametrize("bits", range(2, 9))
def test_exponent_one_is_the_symmetric_integers(bits: int) -> None:
    top = 2 ** (bits - 1) - 1
    assert list(range(-top, top + 1)) == Power(bits=bits, exponent=1).levels().tolist()


@pytest.mark.parametrize("exponent", (0.25, 0.5, 2.0))
def test_the_power_of_a_value_is_proportional_to_its_code(exponent: float) -> None:
    grid = Power(bits=5, exponent=exponent)
    codes = torch.arange(-15, 16, dtype=torch.float64)
    values = grid.values(codes)
    power = values.sign() * values.abs() ** exponent
    assert torch.allclose(codes * 15 ** (exponent - 1), power, rtol=1e-12, atol=1e-12)
    assert (-15.0, 15.0) == pytest.approx(grid.reach, rel=1e-14)


def test_products_of_values_are_the_values_of_products() -> None:
    # what the power functions are for: x^a y^a = (x y)^a
    grid = Power(bits=6, exponent=0.5)
    value = dict(zip(range(-31, 32), (grid.levels() / 31).tolist(), strict=True))
    assert value[2] * value[3] == pytest.approx(value[6] * value[1], rel=1e-12)
    assert value[-4] * value[7] == pytest.approx(value[-28] * value[1], rel=1e-12)


def test_an_exponent_below_one_is_finer_near_zero_and_coarser_far_out() -> None:
    steps = Power(bits=4, exponent=0.5).levels()[7:].diff()
    assert bool((steps.diff() > 0).all())
    assert bool((Power(bits=4, exponent=2.0).levels()[7:].diff().diff() < 0).all())


@pytest.mark.parametrize("signed", (True, False))
def test_log_grids_are_zero_and_every_power_from_one_downwards(signed: bool) -> None:
    for bits in range(2, 8):
        count = 2 ** (bits - 1) - 1 if signed else 2**bits - 1
        for grid, ratio in ((Log2(bits=bits, signed=signed), 2.0),
                            (LogSqrt2(bits=bits, signed=signed), math.sqrt(2.0))):  # fmt: skip
            above = [ratio**-j for j in range(count)]
            expected = sorted([0.0, *above, *([-v for v in above] if signed else [])])
            assert expected == pytest.approx(grid.levels().tolist(), rel=1e-13, abs=0)


def test_every_other_value_of_the_root_of_two_is_a_power_of_two() -> None:
    fine = LogSqrt2(bits=5, signed=False).levels()[1:].flip(0)
    coarse = Log2(bits=4, signed=False).levels()[1:].flip(0)
    assert torch.allclose(coarse, fine[::2][:15], rtol=1e-14, atol=0)


def test_unsigned_grids_keep_shares_between_zero_and_one() -> None:
    shares = torch.softmax(torch.linspace(-8, 4, 50, dtype=torch.float64), 0)
    for grid in (Log2(bits=4, signed=False), LogSqrt2(bits=4, signed=False)):
        found = grid.values(grid.nearest(shares))
        assert bool(((found >= 0) & (found <= 1)).all())
        normal = shares > grid.levels()[1]
        assert bool(((found / shares - 1).abs()[normal] <= 1 / 3 + 1e-12).all())


def test_two_and_three_values() -> None:
    x = torch.tensor([-9.0, -0.51, -0.5, 0.0, 0.5, 0.51, 9.0])
    ternary, binary = Ternary(), Binary()
    assert [-1, -1, 0, 0, 0, 1, 1] == ternary.values(ternary.nearest(x)).tolist()
    assert [-1, -1, -1, 1, 1, 1, 1] == binary.values(binary.nearest(x)).tolist()
    assert (2, 1) == (ternary.width, binary.width)


def test_the_exponent_lies_in_the_bytes_of_the_matrix() -> None:
    grid = Power(bits=4, exponent=0.3172)
    held = Encoded(
        format=Format(grid=grid), codes=torch.tensor([[-7.0, 3.0]]), scale=torch.ones(1, 1)
    )
    other = Format(grid=Power(bits=4, exponent=1.0))
    assert grid == unpacked(packed(held), other, 1, 2).format.grid


@pytest.mark.parametrize("bits", (1, 9))
def test_other_widths_are_refused(bits: int) -> None:
    for make in (lambda: Power(bits=bits, exponent=1.0), lambda: Log2(bits=bits),
                 lambda: LogSqrt2(bits=bits)):  # fmt: skip
        with pytest.raises(InputError, match=f"2 to 8 bits, not {bits}"):
            make()


def test_powers_of_two_that_are_no_float32_are_refused() -> None:
    with pytest.raises(InputError, match="2 to 7 bits"):
        Log2(bits=8, signed=False)


@pytest.mark.parametrize("exponent", (0.0, -1.0, math.nan, math.inf))
def test_exponents_that_are_no_power_map_are_refused(exponent: float) -> None:
    with pytest.raises(InputError, match="above 0"):
        Power(bits=4, exponent=exponent)
