"""Laws of searches among grids: the best of all is taken, and it is never worse than one alone.

Faults these laws must catch: an error without curvature; the last instead of the best; a grid of
another width; an exponent 1 that is left out; a golden section that walks uphill.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from allot.errors import InputError
from allot.num.clipping import MinMax, PNorm
from allot.num.format_search import ExponentSearch, FormatSearch
from allot.num.formats import Format, Grid, Int
from allot.num.minifloat import Minifloat
from allot.num.powers import Power
from allot.num.ranges import Fit
from allot.part import load

FP4: tuple[Grid, ...] = tuple(Minifloat(exponent=e, mantissa=3 - e) for e in (1, 2, 3))
INNER = PNorm(steps=6)


def weights(tail: float, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(6, 64, generator=g)
    return w.sign() * w.abs() ** tail


def error(w: Tensor, fit: Fit, curvature: Tensor | None = None) -> float:
    scale = fit.format.spread(fit.scale, w.shape[1])
    grid = fit.format.grid
    cost = (w - grid.values(grid.nearest(w / scale)) * scale).double().square()
    return float((cost if curvature is None else cost * curvature).sum())


@pytest.mark.parametrize("tail", (0.3, 1.0, 2.0, 4.0))
@pytest.mark.parametrize("curved", (False, True))
def test_the_best_grid_is_taken(tail: float, curved: bool) -> None:
    w = weights(tail)
    h = weights(3.0, 1).abs() if curved else None
    fmt = Format(grid=FP4[0], group=16)
    got = FormatSearch(grids=FP4, inner=INNER).fit(w, fmt, curvature=h)
    alone = [INNER.fit(w, Format(grid=g, group=16), curvature=h) for g in FP4]
    assert error(w, got, h) == min(error(w, fit, h) for fit in alone)
    assert got.format.group == 16 and got.format.grid in FP4


def test_short_tails_take_mantissa_and_long_tails_exponent() -> None:
    search, fmt = FormatSearch(grids=FP4, inner=INNER), Format(grid=FP4[0])
    short, long = (search.fit(weights(t), fmt).format.grid for t in (0.3, 4.0))
    assert isinstance(short, Minifloat) and isinstance(long, Minifloat)
    assert short.exponent == 1 and long.exponent == 3


def test_curvature_takes_part_in_the_choice() -> None:
    w = torch.cat((weights(0.3), weights(5.0)), dim=1)
    search, fmt = FormatSearch(grids=FP4, inner=INNER), Format(grid=FP4[0], group=64)
    left = torch.cat((torch.ones(1, 64), torch.zeros(1, 64)), dim=1)
    chosen = [search.fit(w, fmt, curvature=h).format.grid for h in (left, 1 - left)]
    assert [FP4[0], FP4[2]] == chosen


def test_every_matrix_has_its_own_choice_and_equals_go_to_the_first() -> None:
    w, fmt = torch.zeros(2, 8), Format(grid=FP4[0])
    assert FormatSearch(grids=FP4[::-1], inner=MinMax()).fit(w, fmt).format.grid == FP4[2]


def test_integers_and_floats_may_compete() -> None:
    search = FormatSearch(grids=(Int(bits=4), FP4[1]), inner=INNER)
    assert search.fit(weights(0.3), Format(grid=FP4[1])).format.grid == Int(bits=4)


def test_grids_of_other_widths_are_refused() -> None:
    for grids in ((Int(bits=4), Int(bits=3)), ()):
        with pytest.raises(InputError, match="equal width"):
            FormatSearch(grids=grids, inner=INNER)
    with pytest.raises(InputError, match="8 bits"):
        FormatSearch(grids=FP4, inner=INNER).fit(weights(1), Format(grid=Int(bits=8)))


def power(exponent: float, bits: int = 4) -> Format:
    return Format(grid=Power(bits=bits, exponent=exponent))


@pytest.mark.parametrize("tail", (0.3, 1.0, 2.0, 4.0))
@pytest.mark.parametrize("bits", (3, 4, 6))
def test_an_exponent_is_never_worse_than_one(tail: float, bits: int) -> None:
    w = weights(tail)
    for rule in (ExponentSearch(inner=INNER), ExponentSearch(inner=MinMax(), exponents=())):
        got = rule.fit(w, power(0.5, bits))
        assert error(w, got) <= error(w, rule.inner.fit(w, power(1.0, bits))) * (1 + 1e-6)


@pytest.mark.parametrize("tail", (1.0, 2.0, 3.0))
def test_near_the_best_of_a_dense_list_of_exponents(tail: float) -> None:
    w, h = weights(tail), weights(2.0, 1).abs()
    got = error(w, ExponentSearch(inner=INNER).fit(w, power(1.0), curvature=h), h)
    dense = torch.linspace(0.3, 1.0, 29).tolist()
    best = min(error(w, INNER.fit(w, power(a), curvature=h), h) for a in dense)
    assert got <= 1.05 * best


def test_longer_tails_take_smaller_exponents() -> None:
    grids = [ExponentSearch(inner=INNER).fit(weights(t), power(1.0)).format.grid for t in (0.3, 4)]
    assert isinstance(grids[0], Power) and isinstance(grids[1], Power)
    assert grids[1].exponent < 0.6 < grids[0].exponent


def test_golden_steps_only_help() -> None:
    w = weights(2.0)
    few, many = (ExponentSearch(inner=INNER, steps=n).fit(w, power(1.0)) for n in (0, 8))
    assert error(w, many) <= error(w, few)


def test_exponents_are_for_power_grids() -> None:
    with pytest.raises(InputError, match="Power"):
        ExponentSearch(inner=INNER).fit(weights(1), Format(grid=Int(bits=4)))


def test_searches_survive_a_file() -> None:
    for rule in (FormatSearch(grids=FP4, inner=INNER), ExponentSearch(inner=MinMax())):
        assert rule == load(rule.dump())
