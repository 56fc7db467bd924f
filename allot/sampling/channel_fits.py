"""Channel fits: gain and shift of every channel that bring one tensor near another."""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

# how a channel is corrected
AFFINE, SCALE, SHIFT, MATCHED = "affine", "scale", "shift", "matched"


@dataclass(frozen=True, kw_only=True, eq=False)
class Sums:
    """Moments of pairs (x predicted, y true): [channels, places] each, float64; one place for all
    where places are not told apart.  image: taken of [n, c, h, w], not of [n, ..., c]."""

    count: int
    image: bool
    places: tuple[int, ...]
    x: Tensor
    y: Tensor
    xx: Tensor
    xy: Tensor
    yy: Tensor

    def __add__(self, other: Sums) -> Sums:
        return replace(
            self, count=self.count + other.count, x=self.x + other.x, y=self.y + other.y,
            xx=self.xx + other.xx, xy=self.xy + other.xy, yy=self.yy + other.yy,
        )  # fmt: skip


def sums(x: Tensor, y: Tensor, *, placed: bool = False) -> Sums:
    """Moments of two tensors [n, c, h, w], or [n, ..., c].

    placed: of every place of its own, else of all places together.
    """
    axis = 1 if x.dim() == 4 else x.dim() - 1
    places = tuple(k for i, k in enumerate(x.shape) if i not in (0, axis)) if placed else ()
    a, b = (by_channel(t.double(), axis, placed=placed) for t in (x, y))
    return Sums(
        count=len(a), image=x.dim() == 4, places=places, x=a.sum(0), y=b.sum(0),
        xx=(a * a).sum(0), xy=(a * b).sum(0), yy=(b * b).sum(0),
    )  # fmt: skip


def by_channel(x: Tensor, axis: int, *, placed: bool = False) -> Tensor:
    """[n, ...] with channels at an axis -> [n, channels, places], or [n * places, channels, 1]."""
    if placed:
        return x.movedim(axis, 1).flatten(2) if x.dim() > 2 else x[:, :, None]
    return x.movedim(axis, -1).reshape(-1, x.shape[axis])[:, :, None]


def fitted(s: Sums, kind: str = AFFINE) -> tuple[Tensor, Tensor]:
    """Gain and shift by which gain * x + shift comes near y; they spread over the tensors.

    One gain for a channel, a shift for each of its places that is told apart.  AFFINE: least
    squares, gain = cov / var, shift = the means' difference after it (the correction of CacheQuant,
    Liu et al. 2025).  SCALE: least squares without a shift.  SHIFT: without a gain.  None of these
    is ever worse than gain 1 and shift 0.  MATCHED: the variance of y, which is not of least error;
    but least squares shrinks what x says of single samples, at every step the same way.  A channel
    that is constant keeps gain 1.
    """
    mx, my = s.x / s.count, s.y / s.count
    whole = (s.xx / s.count).sum(1)
    var, cov = whole - (mx * mx).sum(1), (s.xy / s.count - mx * my).sum(1)
    # what rounding leaves of the variance of a constant is no variance
    real = var > 1e-12 * whole
    one = torch.ones_like(var)
    if kind == SCALE:
        gain = torch.where(whole > 0, s.xy.sum(1) / torch.where(whole > 0, s.xx.sum(1), 1.0), one)
        return _spread(s, gain[:, None]), _spread(s, torch.zeros_like(mx))
    if kind == SHIFT:
        gain = one
    elif kind == MATCHED:
        spread = (s.yy / s.count - my * my).sum(1).clamp(min=0)
        gain = torch.where(real, (spread / torch.where(real, var, 1.0)).sqrt(), one)
    else:
        gain = torch.where(real, cov / torch.where(real, var, 1.0), one)
    return _spread(s, gain[:, None]), _spread(s, my - gain[:, None] * mx)


def _spread(s: Sums, x: Tensor) -> Tensor:
    """[channels, places] in the shape of one sample, 1 wherever all places are one."""
    if s.image:
        return x.reshape(len(x), *(s.places if x.shape[1] > 1 else (1, 1)))
    return x.T.reshape(*(s.places if x.shape[1] > 1 else ()), len(x))
