"""Laws of distances: what the codes say, on every grid, near borders and far out.

Faults these laws must catch: a cell that reaches over more levels than are looked at; a sign lost;
numbers beyond the ends; a grid too fine for cells that is not bisected.
"""

from __future__ import annotations

import pytest
import torch

from allot.num.codebook import Codebook
from allot.num.distance import distance
from allot.num.formats import Grid, Int, Table, UInt
from allot.num.minifloat import Minifloat
from allot.num.powers import Binary, Log2, Power, Ternary

FINE = Codebook(bits=8, book=tuple((torch.arange(200) / 1024 + 1).tolist()))
SPLITS = tuple(Minifloat(exponent=e, mantissa=b - 1 - e) for b in (4, 6, 8) for e in range(1, b))
POWERS = tuple(Power(bits=b, exponent=a) for b in (3, 6, 8) for a in (0.4, 1.0, 2.0))
GRIDS: tuple[Grid, ...] = (
    Int(bits=4),
    UInt(bits=8),
    Ternary(),
    Binary(),
    Log2(bits=8),
    FINE,
    *SPLITS,
    *POWERS,
)


@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_the_distance_is_that_of_the_nearest_value(grid: Grid) -> None:
    low, high = grid.reach
    g = torch.Generator().manual_seed(0)
    u = torch.rand(20000, generator=g) * 1.5 * (high - low) + 1.25 * low - 0.25 * high
    small = torch.randn(20000, generator=g) * torch.rand(20000, generator=g).pow(12)
    u = torch.cat((u, small, -small * high, torch.tensor([0.0, -0.0, 1e-38, -3e38, 3e38])))
    if isinstance(grid, Table):
        levels = grid.levels().float()
        u = torch.cat((u, levels, (levels[1:] + levels[:-1]) / 2))
    want = (u - grid.values(grid.nearest(u))).abs()
    got = distance(grid)(u.view(-1, 1)).view(-1)
    assert bool(((got - want).abs() <= 1e-6 * u.abs() + 1e-30).all()), (got - want).abs().max()


def test_what_is_asked_about_stays_as_it_is() -> None:
    u = torch.linspace(-9, 9, 101)
    for grid in GRIDS:
        distance(grid)(u)
    assert torch.equal(torch.linspace(-9, 9, 101), u)
