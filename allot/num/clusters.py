"""Clusters: a few groups of ranges that lie close together, so that outliers stand alone."""

from __future__ import annotations

import torch
from torch import Tensor

_ROUNDS = 100


def clustered(low: Tensor, high: Tensor, count: int) -> Tensor:
    """The group of every range [low, high], numbered from 0: [n], [n] -> [n], at most `count`.

    Lloyd's iteration on the points (low, high), begun at the widest range and then always at the
    range farthest from all begun with (Gonzalez 1985), so that nothing is drawn: a local optimum.
    Equal ranges are in one group.
    """
    points = torch.stack([low, high], dim=1).double()
    centres = points[_starts(points, count)]
    group = _nearest(points, centres)
    for _ in range(_ROUNDS):
        centres = torch.stack([points[group == g].mean(0) for g in group.unique()])
        new = _nearest(points, centres)
        if torch.equal(new, group):
            break
        group = new
    return torch.unique(group, return_inverse=True)[1]


def _starts(points: Tensor, count: int) -> list[int]:
    """The widest range, then the farthest one each time; fewer where no more differ."""
    chosen = [int((points[:, 1] - points[:, 0]).argmax())]
    apart = _squares(points, points[chosen])[:, 0]
    while len(chosen) < count and float(apart.max()) > 0:
        chosen.append(int(apart.argmax()))
        apart = torch.minimum(apart, _squares(points, points[chosen[-1:]])[:, 0])
    return chosen


def _nearest(points: Tensor, centres: Tensor) -> Tensor:
    return _squares(points, centres).argmin(1)


def _squares(points: Tensor, centres: Tensor) -> Tensor:
    """Squared distances: [n, 2], [g, 2] -> [n, g]."""
    return (points[:, None] - centres[None]).square().sum(2)


def spread(low: Tensor, high: Tensor) -> float:
    """How much ranges [n], [n] differ: what their upper ends span, and their lower ends."""
    return float(high.max() - high.min() + low.max() - low.min())
