"""Scales: how far a grid reaches, chosen by least squared error."""

from __future__ import annotations

import torch
from torch import Tensor

from allot.num.formats import Int, UInt

_SHRINKS = 64


def row_scale(w: Tensor, fmt: Int, *, weight: Tensor | None = None) -> Tensor:
    """Scale of least squared rounding error of every row: w [out, k] -> scale [out], signed.

    weight: [k] or [out, k], how much an error in each column counts (curvature); all alike if
    absent.  The scale is searched on a grid between 0.2 and 1.1 of the one that just covers the
    row, with both signs where the codes are not symmetric (an L2 shrink search as in Banner et
    al. 2019; the sign is ours).  A row of zeros gets scale 1.
    """
    top = w.abs().amax(1)
    cover = torch.where(top > 0, top / fmt.hi, torch.ones_like(top))
    low = 0.2 if fmt.bits < 5 else 0.5
    shrinks = torch.linspace(low, 1.1 if fmt.bits < 5 else 1.0, _SHRINKS, dtype=w.dtype)
    signs = (1.0,) if fmt.lo == -fmt.hi else (1.0, -1.0)
    best, error = cover.clone(), torch.full_like(cover, float("inf"))
    importance = torch.ones_like(w) if weight is None else weight.to(w).expand_as(w)
    for factor in (float(c) * s for s in signs for c in shrinks):
        scale = cover * factor
        q = (w / scale[:, None]).round().clamp(fmt.lo, fmt.hi) * scale[:, None]
        e = ((w - q).square() * importance).sum(1)
        better = e < error
        best, error = torch.where(better, scale, best), torch.where(better, e, error)
    return torch.where(top > 0, best, torch.ones_like(best))


def tensor_scale(values: Tensor, low: float, high: float, fmt: UInt) -> tuple[float, int]:
    """Scale and zero point of least squared error for values [n] within [low, high].

    The range always holds 0, so that zero stays exact; values that are never negative get zero
    point 0.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    if high - low <= 0:
        return 1.0, 0
    best, least = (1.0, 0), float("inf")
    for shrink in torch.linspace(0.3, 1.0, _SHRINKS).tolist():
        scale = (high - low) * shrink / fmt.hi
        zero = min(max(round(-low * shrink / scale), 0), fmt.hi)
        q = ((values / scale).round() + zero).clamp(0, fmt.hi) - zero
        error = float((values - q * scale).square().mean())
        if error < least:
            best, least = (scale, zero), error
    return best
