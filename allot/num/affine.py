"""Affine: values on a grid through a scale and a zero point, as activations are put on it.

A range always holds 0, so that zero stays exact.  Unsigned integers come with a zero point, all
other grids with 0 for one.
"""

from __future__ import annotations

import torch
from torch import Tensor

from allot.num.formats import Grid, UInt

# scale and zero point of every unit, [units] each
Range = tuple[Tensor, Tensor]


def covering(low: Tensor, high: Tensor, grid: Grid) -> Range:
    """The least scale whose grid holds 0, low and high [units] to half a step: [units] each.

    A side that the grid lacks is cut off; a range of nothing but 0 gets scale 1.
    """
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    if isinstance(grid, UInt):
        scale = (high - low) / grid.hi
    else:
        least, most = grid.reach
        up, down = (high / most if most > 0 else 0 * high), (low / least if least < 0 else 0 * low)
        scale = torch.maximum(up, down)
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    if isinstance(grid, UInt):
        return scale, (-low / scale).round().clamp(0, grid.hi)
    return scale, torch.zeros_like(scale)


def rounded(x: Tensor, scale: Tensor, zero: Tensor, grid: Grid) -> Tensor:
    """Nearest values of the grid: x [...], scale and zero broadcast with it -> like x.

    scale * (code - zero) for unsigned integers, scale * value for other grids; NaN stays NaN.
    """
    if isinstance(grid, UInt):
        return ((x / scale).round() + zero).clamp(grid.lo, grid.hi).sub(zero) * scale
    q = grid.values(grid.nearest(x / scale)) * scale
    return torch.where(x.isnan(), x, q)


def ends(scale: Tensor, zero: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """The least and the largest value that are not clipped, half the outer steps counted in."""
    codes = torch.tensor([grid.lo, grid.lo + 1, grid.hi - 1, grid.hi], dtype=torch.float64)
    a, b, c, d = grid.values(codes).tolist()
    low, high = a - (b - a) / 2, d + (d - c) / 2
    return (low - zero) * scale, (high - zero) * scale
