"""Thresholds by relative entropy: the clipped histogram against what the codes keep of it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from allot.num.grouped import Grouped, stored
from allot.num.ranges import Fit
from allot.num.shrink import covered

_THRESHOLDS = 64
_FLOOR = 1e-4


@dataclass(frozen=True, kw_only=True, eq=False)
class _Histogram:
    """Of every group: centres of the bins and counts, both [rows or 1, groups, bins]."""

    centres: Tensor
    counts: Tensor


def least_entropy(problem: Grouped, bins: int) -> Fit:
    """The threshold of least KL(clipped histogram || histogram of codes, spread over their bins).

    Thresholds are shares 1, 63/64, ... 1/16 of the covering range; both ends are drawn in alike.
    """
    seen = _histogram(problem, bins)
    full, zero = covered(problem)
    scale, least = full, _divergence(problem, seen, full, zero)
    for share in torch.linspace(1.0, 1 / 16, _THRESHOLDS).tolist()[1:]:
        tried = stored(problem, full * share)
        divergence = _divergence(problem, seen, tried, zero)
        scale = torch.where(divergence < least, tried, scale)
        least = torch.minimum(divergence, least)
    return Fit(format=problem.format, scale=stored(problem, scale), zero=zero)


def _histogram(problem: Grouped, bins: int) -> _Histogram:
    x = problem.values
    bins = min(bins, max(2, x.shape[-1]))
    low, high = x.amin(-1, keepdim=True), x.amax(-1, keepdim=True)
    width = torch.where(high > low, (high - low) / bins, 1.0)
    places = ((x - low) / width).long().clamp(0, bins - 1)
    counts = x.new_zeros(*x.shape[:2], bins).scatter_add_(-1, places, torch.ones_like(x))
    middle = torch.arange(bins, dtype=x.dtype) + 0.5
    centres = torch.minimum(low + width * middle, high)
    return _Histogram(centres=centres, counts=counts)


def _divergence(problem: Grouped, seen: _Histogram, scale: Tensor, zero: Tensor | None) -> Tensor:
    """[rows or 1, groups]; infinite where fewer bins than values lie within."""
    parts = []
    for rows in problem.blocks():
        u = seen.centres[rows] / scale[rows, :, None]
        u = u if zero is None else u + zero[rows, :, None]
        parts.append(_relative(problem, u, seen.counts[rows]))
    return torch.cat(parts)


def _relative(problem: Grouped, u: Tensor, counts: Tensor) -> Tensor:
    """KL of bins at u, in units of the scale: [..., bins] -> [...]."""
    grid = problem.format.grid
    low, high = grid.reach
    slack = 1e-3 * (high - low)
    inside = ((u >= low - slack) & (u <= high + slack)).to(u)
    codes = (grid.nearest(u) - grid.lo).long()
    kept = counts * inside
    used = (kept > 0).to(u)
    levels = u.new_zeros(*u.shape[:-1], grid.hi - grid.lo + 1)
    mass = levels.scatter_add(-1, codes, kept).gather(-1, codes)
    bins = levels.scatter_add(-1, codes, used).gather(-1, codes)
    clipped = kept + _tails(u, counts, inside, low, high)
    p = clipped / counts.sum(-1, keepdim=True)
    total = kept.sum(-1, keepdim=True)
    q = used * mass / bins.clamp(min=1) / total.clamp(min=1)
    q = (1 - _FLOOR) * q + _FLOOR / u.shape[-1]
    divergence = torch.where(p > 0, p * (p / q).log(), 0.0).sum(-1)
    # with a code for every bin nothing but the clipping would tell the two apart
    enough = (inside.sum(-1) >= levels.shape[-1]) & (total[..., 0] > 0)
    return torch.where(enough, divergence, float("inf"))


def _tails(u: Tensor, counts: Tensor, inside: Tensor, low: float, high: float) -> Tensor:
    """What is clipped, put into the outermost bins within the threshold: like counts."""
    below = (counts * (1 - inside) * (u < low)).sum(-1, keepdim=True)
    above = (counts * (1 - inside) * (u > high)).sum(-1, keepdim=True)
    first = inside.argmax(-1, keepdim=True)
    last = inside.shape[-1] - 1 - inside.flip(-1).argmax(-1, keepdim=True)
    ends = torch.zeros_like(counts)
    return ends.scatter_add_(-1, first, below).scatter_add_(-1, last, above)
