"""How far numbers lie from a grid, without their codes: what searches for scales ask most often."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from allot.num.formats import Grid, Table

# up to as many levels it is quicker to look at all of them
_FEW = 33
# a cell is what float32 numbers of the same upper half lie in: sign, exponent, 7 bits of mantissa
_CELLS = 1 << 16


def distance(grid: Grid) -> Callable[[Tensor], Tensor]:
    """u [...], float32 in units of the scale -> |u - nearest value|, up to rounding of float32.

    Bisection in a list of levels takes many times longer than arithmetic, so lists are not
    bisected: few levels are all looked at, of many only those that a cell can be nearest to.
    """
    if not isinstance(grid, Table):
        return lambda u: (u - grid.values(grid.nearest(u))).abs_()
    levels = grid.levels().float()
    if len(levels) <= _FEW:
        return lambda u: _of_all(u, levels.tolist())
    first = _firsts(grid)
    if first is None:
        return lambda u: (u - grid.values(grid.nearest(u))).abs_()
    padded = torch.cat((levels, torch.full((2,), float("inf"))))
    return lambda u: _of_three(u, first, padded)


def _of_all(u: Tensor, levels: list[float]) -> Tensor:
    least = (u - levels[0]).abs_()
    other = torch.empty_like(u)
    for level in levels[1:]:
        torch.sub(u, level, out=other)
        torch.minimum(least, other.abs_(), out=least)
    return least


def _of_three(u: Tensor, first: Tensor, levels: Tensor) -> Tensor:
    flat = u.contiguous().view(-1)
    place = first.index_select(0, (flat.view(torch.int32) >> 16) + _CELLS // 2)
    least = torch.full_like(flat, float("inf"))
    for _ in range(3):
        off = (flat - levels.index_select(0, place)).abs_()
        torch.minimum(least, off, out=least)
        place = place + 1
    return least.view_as(u)


def _firsts(grid: Table) -> Tensor | None:
    """Place of the least level that a number of each cell can be nearest to, int32 [cells].

    None where a cell reaches over more than three levels.
    """
    upper = torch.arange(-_CELLS // 2, _CELLS // 2, dtype=torch.int32) << 16
    ends = torch.stack((upper, upper | 0xFFFF)).view(torch.float32)
    # what is beyond the largest number is nearest to an end of the grid, as that number is
    largest = torch.finfo(torch.float32).max
    places = grid.nearest(ends.nan_to_num(0.0, largest, -largest)) - grid.lo
    used = ends.isfinite().all(0)
    first = places.amin(0)
    if bool((places.amax(0) - first)[used].max() > 2):
        return None
    return first.int()
