"""Laws of free codes: the error never rises, and where it ends no single change lowers it.

Faults these laws must catch: a residual not carried along; a block's effect applied twice or not
at all; a scale's sign forgotten; a step taken at a loss; only neighbours tried.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from allot.num import freecodes
from allot.num.codebook import Codebook
from allot.num.formats import Grid, Int, UInt
from allot.num.freecodes import FreeCodes, swept
from allot.num.quadratic import Rows, grouped
from allot.num.rounding import Gptq, Nearest, Rounding
from allot.testing import RoundingLaws

UNEVEN = Codebook(bits=3, book=(-4.0, -2.0, -1.0, -0.25, 0.0, 0.5, 1.5, 5.0))
GRIDS = (Int(bits=2), Int(bits=4), UInt(bits=3), UNEVEN)


class TestFreeCodes(RoundingLaws):
    def rounding(self) -> Rounding:
        return FreeCodes()


class TestFreeCodesFromNearest(RoundingLaws):
    def rounding(self) -> Rounding:
        return FreeCodes(start=Nearest(), damp=0.0, sweeps=3)


def case(seed: int, grid: Grid, *, rows: int = 4, k: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    """w [rows, k], a scale for every three columns [rows, k], the gram of correlated inputs.

    w is in the middle of a grid that begins at 0.
    """
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(rows, k, generator=g, dtype=torch.float64)
    mix = torch.randn(k, k, generator=g, dtype=torch.float64)
    x = torch.randn(50, k, generator=g, dtype=torch.float64) @ mix
    x = x * torch.linspace(0.3, 3, k, dtype=torch.float64)
    low, high = grid.reach
    zero = high // 2 if low >= 0 else 0.0
    scale = 1.8 / (high - zero) * (0.7 + torch.rand(rows, k // 3, generator=g, dtype=w.dtype))
    scale = scale * torch.where(torch.rand(rows, k // 3, generator=g) < 0.5, 1, -1)
    scale = scale.repeat_interleave(3, dim=1)
    return w + scale * zero, scale, (x.T @ x)[None]


def problem(seed: int, grid: Grid, *, rows: int = 4, k: int = 12, damp: float = 0.0) -> Rows:
    w, scale, gram = case(seed, grid, rows=rows, k=k)
    return grouped(w, scale, grid, gram, damp=damp)


def every_code(grid: Grid) -> Tensor:
    return torch.arange(grid.lo, grid.hi + 1, dtype=torch.float64)


@pytest.mark.parametrize("grid", GRIDS)
def test_a_sweep_makes_every_column_in_turn_the_best_there_is(grid: Grid) -> None:
    for seed in range(5):
        rows = problem(seed, grid)
        start = grid.nearest(rows.w / rows.scale)
        by_hand = start.clone()
        for j in range(12):
            tried = []
            for code in every_code(grid):
                changed = by_hand.clone()
                changed[:, :, j] = code
                tried.append(rows.error(changed))
            by_hand[:, :, j] = every_code(grid)[torch.stack(tried).argmin(0)]
        assert torch.equal(by_hand, swept(rows, start))


@pytest.mark.parametrize("grid", GRIDS)
def test_the_error_never_rises(grid: Grid) -> None:
    for seed in range(8):
        rows = problem(seed, grid)
        g = torch.Generator().manual_seed(seed)
        codes = every_code(grid)[torch.randint(len(every_code(grid)), (1, 4, 12), generator=g)]
        for _ in range(6):
            new = swept(rows, codes)
            assert bool((rows.error(new) <= rows.error(codes) * (1 + 1e-12)).all())
            codes = new


@pytest.mark.parametrize("damp", (0.0, 0.01))
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("start", (Nearest(), Gptq()))
def test_no_row_is_worse_than_its_start(start: Rounding, grid: Grid, damp: float) -> None:
    for seed in range(8):
        w, scale, gram = case(seed, grid)
        rows = grouped(w, scale, grid, gram, damp=damp)
        before = start.codes(w, scale, grid, gram).double()[None]
        after = FreeCodes(start=start, damp=damp).codes(w, scale, grid, gram).double()[None]
        assert bool((rows.error(after) <= rows.error(before) * (1 + 1e-12)).all())


@pytest.mark.parametrize("grid", GRIDS)
def test_at_the_end_no_single_change_lowers_the_error(grid: Grid) -> None:
    for seed in range(4):
        w, scale, gram = case(seed, grid)
        rows = grouped(w, scale, grid, gram, damp=0.01)
        codes = FreeCodes(sweeps=100).codes(w, scale, grid, gram).double()[None]
        least = rows.error(codes)
        for j, code in itertools.product(range(12), every_code(grid)):
            changed = codes.clone()
            changed[:, :, j] = code
            assert bool((rows.error(changed) >= least * (1 - 1e-9)).all())


def test_it_is_near_the_exact_optimum_and_never_below() -> None:
    grid, ratios = Int(bits=2), []
    every = torch.tensor(list(itertools.product(range(-2, 2), repeat=6)), dtype=torch.float64)
    for seed in range(40):
        w, scale, gram = case(seed, grid, rows=1, k=6)
        whole = grouped(w.expand(len(every), 6), scale.expand(len(every), 6), grid, gram)
        least = float(whole.error(every[None]).min())
        rows = grouped(w, scale, grid, gram)
        found, near, gptq = (
            float(rows.error(r.codes(w, scale, grid, gram).double()[None]))
            for r in (FreeCodes(damp=0.0), Nearest(), Gptq())
        )
        assert least * (1 - 1e-9) <= found <= gptq * (1 + 1e-9)
        ratios.append([found / least, near / least, gptq / least])
    mean = torch.tensor(ratios).log().mean(0).exp()
    assert mean[0] < 1.2 and mean[0] < mean[2] < mean[1], mean


def test_codes_leave_the_two_values_around_the_weight() -> None:
    w, scale, gram = case(1, Int(bits=4))
    codes = FreeCodes(start=Nearest(), damp=0.0).codes(w, scale, Int(bits=4), gram)
    inside = (w / scale).clamp(-8, 7)
    assert float((codes - inside).abs().max()) > 1


@pytest.mark.parametrize("size", (1, 5, 1000))
def test_the_size_of_blocks_only_re_associates_sums(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = Int(bits=3)
    rows = problem(2, grid, rows=8, k=90, damp=0.01)
    start = grid.nearest(rows.w / rows.scale)
    one = swept(rows, start)
    assert not torch.equal(start, one)
    monkeypatch.setattr(freecodes, "_BLOCK", size)
    assert torch.equal(one, swept(rows, start))


def test_groups_are_rounded_each_alone() -> None:
    grid = Int(bits=3)
    cases = [case(s, grid, rows=2, k=9) for s in range(5)]
    w, scale, gram = (torch.cat([c[i] for c in cases]) for i in range(3))
    alone = torch.cat([FreeCodes().codes(*c[:2], grid, c[2]) for c in cases])
    assert torch.equal(alone, FreeCodes().codes(w, scale, grid, gram))


@pytest.mark.parametrize("damp", (0.0, 0.01))
def test_a_column_that_no_input_reaches_is_nearest(damp: float) -> None:
    grid = Int(bits=4)
    w, scale, gram = case(3, grid)
    gram[:, 5, :] = gram[:, :, 5] = 0
    codes = FreeCodes(damp=damp).codes(w, scale, grid, gram)
    assert torch.equal(grid.nearest(w / scale)[:, 5], codes[:, 5].double())


def test_inputs_that_are_all_zero_leave_the_start() -> None:
    w, scale, gram = case(4, Int(bits=3))
    got = FreeCodes().codes(w, scale, Int(bits=3), torch.zeros_like(gram))
    assert torch.equal(Int(bits=3).nearest(w / scale), got.double())
