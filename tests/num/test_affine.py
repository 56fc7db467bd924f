"""Laws of values on a grid through a scale and a zero point.

Faults these laws must catch: zero that is not exact; a range whose ends are clipped; a scale of
0 for a constant; the negative side of a grid that has none; NaN turned into a number.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from allot.num.affine import covering, ends, rounded
from allot.num.formats import Grid, Int, UInt
from allot.num.minifloat import Minifloat
from allot.num.powers import Log2

EVEN: tuple[Grid, ...] = tuple(g for b in (2, 4, 8) for g in (UInt(bits=b), Int(bits=b)))
SIGNED: tuple[Grid, ...] = (*EVEN, Minifloat(exponent=2, mantissa=1), Log2(bits=4))
ALL: tuple[Grid, ...] = (*SIGNED, Log2(bits=4, signed=False))


def drawn(n: int = 500, shift: float = 0.0, seed: int = 0) -> Tensor:
    return torch.randn(n, generator=torch.Generator().manual_seed(seed)) + shift


def on(x: Tensor, grid: Grid) -> Tensor:
    return rounded(x, *covering(x.min()[None], x.max()[None], grid), grid)


@pytest.mark.parametrize("grid", EVEN)
@pytest.mark.parametrize("shift", (-5.0, 0.0, 0.3, 5.0))
def test_all_between_the_ends_is_within_half_a_step(grid: Grid, shift: float) -> None:
    x = drawn(shift=shift)
    scale, _ = covering(x.min()[None], x.max()[None], grid)
    assert float((on(x, grid) - x).abs().max()) <= float(scale) / 2 * (1 + 1e-5)


@pytest.mark.parametrize("grid", ALL)
def test_every_value_goes_to_the_nearest_there_is(grid: Grid) -> None:
    x = drawn(200)
    scale, zero = covering(x.min()[None], x.max()[None], grid)
    codes = torch.arange(grid.lo, grid.hi + 1)
    there = (grid.values(codes.double()) - zero.double()) * scale.double()
    best = (x.double()[:, None] - there).abs().amin(1)
    got = (x.double() - rounded(x, scale, zero, grid).double()).abs()
    assert torch.allclose(best, got, atol=1e-5)


@pytest.mark.parametrize("grid", ALL)
def test_rounding_twice_is_rounding_once_and_zero_is_exact(grid: Grid) -> None:
    x = drawn(shift=0.4)
    scale, zero = covering(x.min()[None], x.max()[None], grid)
    once = rounded(x, scale, zero, grid)
    assert torch.equal(once, rounded(once, scale, zero, grid))
    if float(grid.values(grid.nearest(torch.zeros(1)))) == 0:
        assert float(rounded(torch.zeros(1), scale, zero, grid)) == 0


@pytest.mark.parametrize("grid", ALL)
@pytest.mark.parametrize("constant", (3.7, 1e-20, 0.0, -2.3, -1e9))
def test_a_constant_is_exact_where_the_grid_has_its_sign(grid: Grid, constant: float) -> None:
    x = torch.full((5,), constant)
    got = on(x, grid)
    assert got.isfinite().all()
    least, most = grid.reach
    has = constant >= 0 or least < 0 or isinstance(grid, UInt)
    if has and (constant != 0 or least <= 0 <= most):
        assert torch.allclose(got, x, rtol=1e-6, atol=0) or constant == 0


@pytest.mark.parametrize("bits", (2, 4, 8))
def test_unsigned_integers_are_those_of_torch(bits: int) -> None:
    grid, x = UInt(bits=bits), torch.cat([drawn(2000) * 3, torch.arange(-40, 40) / 8])
    for zero in (0, 1, 2**bits - 1):
        want = torch.fake_quantize_per_tensor_affine(x, 0.25, zero, 0, grid.hi)
        assert torch.equal(want, rounded(x, torch.tensor([0.25]), torch.tensor([zero]), grid))


@pytest.mark.parametrize("grid", ALL)
def test_nan_stays_and_infinity_is_clipped(grid: Grid) -> None:
    x = torch.tensor([math.nan, math.inf, -math.inf, 1.0])
    got = rounded(x, torch.tensor([1.0]), torch.tensor([0.0]), grid)
    assert got.isnan().tolist() == [True, False, False, False] and got[1:].isfinite().all()


@pytest.mark.parametrize("grid", EVEN)
def test_what_is_not_clipped_lies_between_the_ends(grid: Grid) -> None:
    zero = torch.tensor([1.0 if isinstance(grid, UInt) else 0.0])
    scale = torch.tensor([0.5])
    low, high = ends(scale, zero, grid)
    x = torch.linspace(-200, 200, 5001)
    near = (x - rounded(x, scale, zero, grid)).abs() <= 0.25 + 1e-6
    assert torch.equal(near, (x >= low - 1e-6) & (x <= high + 1e-6))
