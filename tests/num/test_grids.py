"""Laws of every grid: codes and values are one list, nearest is nearest, what it takes is counted.

Faults these laws must catch: a list that is not ascending or one value short; codes that do not
fit their width; ties away from zero; a border that belongs to the wrong side; a floor of codes
instead of values; a negative value without its positive one; a grid whose memory of its values
changes what it is equal to; a grid that a file does not bring back.
"""

from __future__ import annotations

import copy
import json
import pickle

import pytest
import torch
from torch import Tensor

from allot import part
from allot.num.codebook import Codebook
from allot.num.formats import Format, Grid, Int, Table, UInt
from allot.num.minifloat import Minifloat
from allot.num.powers import Binary, Log2, LogSqrt2, Power, Ternary

SPLITS = [(e, bits - 1 - e) for bits in (4, 6, 8) for e in range(1, bits)]
SYMMETRIC: list[Table] = [
    *(Minifloat(exponent=e, mantissa=m) for e, m in SPLITS),
    *(Power(bits=b, exponent=a) for b in (2, 3, 4, 8) for a in (0.3, 0.5, 1.0, 1.7)),
    *(Log2(bits=b) for b in range(2, 9)),
    *(LogSqrt2(bits=b) for b in range(2, 9)),
    Ternary(),
    Binary(),
]
TABLES: list[Table] = [
    *SYMMETRIC,
    *(Log2(bits=b, signed=False) for b in range(2, 8)),
    *(LogSqrt2(bits=b, signed=False) for b in range(2, 9)),
    Codebook(bits=1, book=(-0.25, 3.0)),
    Codebook(bits=2, book=(-1.0, -0.125, 0.5, 0.75)),
    Codebook(bits=3, book=(-2.0, 0.0, 0.5, 0.75, 1.5)),
]
GRIDS: list[Grid] = [*TABLES, *(Int(bits=b) for b in range(2, 9)), UInt(bits=4), UInt(bits=8)]


def codes_of(grid: Grid, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.arange(grid.lo, grid.hi + 1, dtype=dtype)


def inputs(grid: Grid, dtype: torch.dtype = torch.float64) -> Tensor:
    """Numbers of every size, inside and outside, the values and what lies midway: [n]."""
    g = torch.Generator().manual_seed(grid.width)
    levels = grid.values(codes_of(grid))
    top = levels.abs().max()
    even = (torch.rand(400, generator=g, dtype=torch.float64) * 2 - 1) * 1.3 * top
    tiny = even * torch.logspace(-6, 0, 400, dtype=torch.float64)
    middle = (levels[1:] + levels[:-1]) / 2
    zero = torch.zeros(1, dtype=torch.float64)
    return torch.cat((even, tiny, levels, middle, zero, 1e3 * top[None], -1e3 * top[None])).to(
        dtype
    )


def on(grid: Grid, x: Tensor) -> Tensor:
    """The values of the grid that x is rounded to."""
    return grid.values(grid.nearest(x))


@pytest.mark.parametrize("grid", GRIDS, ids=repr)
def test_codes_and_values_ascend_together(grid: Grid) -> None:
    for dtype in (torch.float64, torch.float32):
        levels = grid.values(codes_of(grid, dtype))
        assert levels.dtype == dtype and bool((levels.diff() > 0).all())


@pytest.mark.parametrize("grid", GRIDS, ids=repr)
def test_whole_numbers_of_any_dtype_are_codes(grid: Grid) -> None:
    expected = grid.values(codes_of(grid, torch.float32))
    for dtype in (torch.int16, torch.int64):
        assert torch.equal(expected, grid.values(codes_of(grid, dtype)).float())


@pytest.mark.parametrize("grid", GRIDS, ids=repr)
def test_a_value_has_its_own_code(grid: Grid) -> None:
    for dtype in (torch.float64, torch.float32):
        codes = codes_of(grid, dtype)
        assert torch.equal(codes, grid.nearest(grid.values(codes)))


@pytest.mark.parametrize("grid", GRIDS, ids=repr)
def test_rounding_twice_is_rounding_once(grid: Grid) -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        x = inputs(grid, dtype)
        once = on(grid, x.to(dtype))
        assert once.dtype == dtype
        if dtype != torch.bfloat16:  # values need not be numbers of half precision
            assert torch.equal(once, on(grid, once))


@pytest.mark.parametrize("grid", GRIDS, ids=repr)
def test_no_value_is_nearer(grid: Grid) -> None:
    x, levels = inputs(grid), grid.values(codes_of(grid))
    least = (x[:, None] - levels).abs().amin(1)
    assert torch.allclose(least, (x - on(grid, x)).abs(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("grid", TABLES, ids=repr)
def test_what_lies_midway_goes_towards_zero(grid: Table) -> None:
    levels = grid.values(codes_of(grid))
    low, high = levels[:-1], levels[1:]
    middle = (low + high) / 2
    exact = (middle - low == high - middle) & (low.abs() != high.abs())
    smaller = torch.where(low.abs() < high.abs(), low, high)
    assert torch.equal(smaller[exact], on(grid, middle[exact]))


@pytest.mark.parametrize("grid", GRIDS, ids=repr)
def test_below_is_the_floor_among_the_values(grid: Grid) -> None:
    x, levels = inputs(grid), grid.values(codes_of(grid))
    under = (levels <= x[:, None]).sum(1) - 1
    expected = under.clamp(0, len(levels) - 2) + grid.lo
    assert torch.equal(expected, grid.below(x).long())


@pytest.mark.parametrize("grid", GRIDS, ids=repr)
def test_the_nearest_value_is_the_one_below_or_the_next(grid: Grid) -> None:
    x = inputs(grid)
    above = grid.nearest(x) - grid.below(x)
    assert bool(((above == 0) | (above == 1)).all())


@pytest.mark.parametrize("grid", SYMMETRIC, ids=repr)
def test_a_symmetric_grid_rounds_symmetrically(grid: Table) -> None:
    x = inputs(grid)
    x = x[(x != 0) | torch.tensor(not isinstance(grid, Binary))]
    levels = grid.levels()
    assert torch.equal(levels, -levels.flip(0))
    assert torch.equal(on(grid, -x), -on(grid, x))


@pytest.mark.parametrize("grid", GRIDS, ids=repr)
def test_every_code_fits_its_width_and_no_fewer_bits_would_do(grid: Grid) -> None:
    count = grid.hi - grid.lo + 1
    assert count <= 2**grid.width and (count > 2 ** (grid.width - 1) or isinstance(grid, Codebook))
    least = 0 if grid.lo >= 0 else -(2 ** (grid.width - 1))
    assert least <= grid.lo < grid.hi < least + 2**grid.width


@pytest.mark.parametrize("grid", GRIDS, ids=repr)
def test_the_reach_is_from_the_least_value_to_the_largest(grid: Grid) -> None:
    levels = grid.values(codes_of(grid))
    assert grid.reach == (float(levels.min()), float(levels.max()))


@pytest.mark.parametrize("grid", TABLES, ids=repr)
@pytest.mark.parametrize("dtype", (torch.float16, torch.bfloat16))
def test_half_precision_finds_the_codes_of_the_same_number(grid: Table, dtype: torch.dtype) -> None:
    x = inputs(grid).to(dtype)
    for verb in (grid.nearest, grid.below):
        assert torch.equal(verb(x.float()), verb(x).float()) and verb(x).dtype == dtype


@pytest.mark.parametrize("grid", TABLES, ids=repr)
def test_shape_and_order_of_memory_do_not_matter(grid: Table) -> None:
    x = inputs(grid)[:120].reshape(10, 12)
    before = x.clone()
    for verb in (grid.nearest, grid.below):
        assert torch.equal(verb(x).T, verb(x.T))
    assert torch.equal(before, x)


@pytest.mark.parametrize("grid", GRIDS, ids=repr)
def test_a_grid_survives_a_file_and_a_copy_after_use(grid: Grid) -> None:
    fresh = part.load(json.loads(json.dumps(grid.dump())))
    known = hash(grid)
    grid.nearest(torch.ones(1))
    for other in (fresh, copy.deepcopy(grid), pickle.loads(pickle.dumps(grid))):
        assert other == grid and hash(other) == known == hash(grid) and repr(other) == repr(grid)
        assert torch.equal(grid.values(codes_of(grid)), other.values(codes_of(grid)))
    assert fresh.dump() == grid.dump()


@pytest.mark.parametrize("grid", GRIDS, ids=repr)
def test_what_a_grid_was_fitted_to_takes_the_bits_it_counts(grid: Grid) -> None:
    assert len(grid.fixed()) == -(-grid.fixed_bits // 8)
    assert grid == grid.restored(grid.fixed())


@pytest.mark.parametrize("grid", [g for g in GRIDS if not isinstance(g, UInt)], ids=repr)
def test_a_matrix_takes_its_codes_and_what_its_grid_was_fitted_to(grid: Grid) -> None:
    # by hand: 5 rows of 7 codes, then 5 scales of 32 bits
    expected = -(-35 * grid.width // 8) + grid.fixed_bits // 8 + 20
    assert expected == Format(grid=grid).stored_bytes(5, 7)
