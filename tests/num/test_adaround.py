"""Laws of AdaRound: the two codes around a weight on any grid, and never worse than the start.

Faults these laws must catch: a pair that is not around the weight; a step taken as 1 on a grid of
unequal steps; a scale's sign forgotten; a start thrown away for something worse; a wrong slope.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from allot.num.adaround import AdaRound, _hardening, _rectified, pairs
from allot.num.formats import Grid, Int
from allot.num.quadratic import grouped
from allot.num.rounding import Gptq, Nearest, Rounding
from allot.testing import RoundingLaws
from tests.num.test_freecodes import GRIDS, UNEVEN, case

LAWFUL = (Int(bits=2), Int(bits=8), UNEVEN)


class TestAdaRound(RoundingLaws):
    formats = LAWFUL

    def rounding(self) -> Rounding:
        return AdaRound(steps=60)


class TestAdaRoundFromNearest(RoundingLaws):
    formats = LAWFUL

    def rounding(self) -> Rounding:
        return AdaRound(start=Nearest(), steps=40, damp=0.0)


@pytest.mark.parametrize("grid", GRIDS)
def test_the_pair_is_around_the_weight_and_the_fraction_finds_it(grid: Grid) -> None:
    w, scale, gram = case(0, grid, rows=20)
    rows = grouped(w, scale, grid, gram)
    below, unit, fraction = pairs(rows)
    low, high = (grid.values(c) * rows.scale for c in (below, below + 1))
    ends = [grid.values(torch.tensor(c, dtype=w.dtype)) for c in (grid.lo, grid.hi)]
    held = (rows.w / rows.scale).clamp(*ends) * rows.scale
    assert torch.allclose(high - low, unit, rtol=1e-12)
    assert torch.allclose(held, low + fraction * unit, atol=1e-12)
    assert 0 <= fraction.min() and fraction.max() <= 1
    assert grid.lo <= below.min() and below.max() < grid.hi


@pytest.mark.parametrize("grid", GRIDS)
def test_a_row_has_codes_of_its_pairs_or_is_the_start(grid: Grid) -> None:
    learned = 0
    for seed in range(4):
        w, scale, gram = case(seed, grid)
        below = grid.below(w / scale)
        codes = AdaRound(steps=100).codes(w, scale, grid, gram).double()
        start = Gptq().codes(w, scale, grid, gram).double()
        within = ((codes == below) | (codes == below + 1)).all(1)
        same = (codes == start).all(1)
        assert bool((within | same).all())
        learned += int((~same).sum())
    assert learned > 0


@pytest.mark.parametrize("damp", (0.0, 0.01))
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("start", (Nearest(), Gptq()))
def test_no_row_is_worse_than_its_start(start: Rounding, grid: Grid, damp: float) -> None:
    for seed in range(3):
        w, scale, gram = case(seed, grid)
        rows = grouped(w, scale, grid, gram, damp=damp)
        before = start.codes(w, scale, grid, gram).double()[None]
        rounding = AdaRound(start=start, damp=damp, steps=50)
        after = rounding.codes(w, scale, grid, gram).double()[None]
        assert bool((rows.error(after) <= rows.error(before)).all())


@pytest.mark.parametrize("grid", (Int(bits=3), UNEVEN))
def test_it_is_near_the_best_of_all_pairs_and_not_below(grid: Grid) -> None:
    ups = torch.tensor(list(itertools.product((0, 1), repeat=9)), dtype=torch.float64)
    # many layers of one row, as the groups of one
    cases = [case(s, grid, rows=1, k=9) for s in range(40)]
    w, scale, gram = (torch.cat([c[i] for c in cases]) for i in range(3))
    rows, below = grouped(w, scale, grid, gram), grid.below(w / scale)[:, None]
    d = (w[:, None] - grid.values(below + ups) * scale[:, None]).view(40, -1, 9)
    least = ((d @ gram) * d).sum(2).amin(1)
    ratios = []
    for rounding in (AdaRound(start=Nearest(), damp=0.0), Nearest()):
        codes = rounding.codes(w, scale, grid, gram).double()
        ratios.append(rows.error(codes.view(40, 1, 9))[:, 0] / least)
    assert ratios[0].min() >= 1 - 1e-9
    learned, near = (r.log().mean().exp() for r in ratios)
    assert learned < 1.6 and learned < 0.85 * near, (learned, near)


def test_the_slopes_are_those_of_the_functions() -> None:
    logits = torch.linspace(-4, 4, 101, dtype=torch.float64, requires_grad=True)
    soft, slope = _rectified(logits)
    assert torch.allclose(torch.autograd.grad(soft.sum(), logits)[0], slope.detach())
    for beta in (20.0, 5.5, 2.0):
        h = torch.linspace(0.01, 0.99, 50, dtype=torch.float64, requires_grad=True)
        regular = (1 - (2 * h - 1).abs().pow(beta)).sum()
        assert torch.allclose(torch.autograd.grad(regular, h)[0], _hardening(h.detach(), beta))


def test_it_draws_no_random_number_and_works_where_gradients_are_off_or_on() -> None:
    w, scale, gram = case(5, Int(bits=3))
    state = torch.get_rng_state()
    with torch.no_grad():
        off = AdaRound(steps=30).codes(w, scale, Int(bits=3), gram)
    on = AdaRound(steps=30).codes(w, scale, Int(bits=3), gram)
    assert torch.equal(off, on) and not on.requires_grad
    assert torch.equal(state, torch.get_rng_state())


def test_groups_are_rounded_each_alone() -> None:
    grid: Grid = Int(bits=3)
    cases = [case(s, grid, rows=2, k=9) for s in range(3)]
    whole: list[Tensor] = [torch.cat([c[i] for c in cases]) for i in range(3)]
    rounding = AdaRound(steps=60)
    alone = torch.cat([rounding.codes(*c[:2], grid, c[2]) for c in cases])
    assert torch.equal(alone, rounding.codes(whole[0], whole[1], grid, whole[2]))


def test_inputs_that_are_all_zero_leave_the_start() -> None:
    w, scale, gram = case(4, Int(bits=3))
    got = AdaRound(steps=20).codes(w, scale, Int(bits=3), torch.zeros_like(gram))
    assert torch.equal(Int(bits=3).nearest(w / scale), got.double())
