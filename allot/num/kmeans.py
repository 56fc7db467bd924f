"""K-means in one dimension: the few numbers that many are best replaced by."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from allot.errors import DataError

Floats = NDArray[np.float64]
Places = NDArray[np.intp]

# atoms that clusters are made of: all clusters of them are a table of this squared
_ATOMS = 1024
_ROUNDS = 200
# a share of all weight that running sums may lose
_NOTHING = 1e-12


def fitted(values: Tensor, weights: Tensor | None, bits: int) -> Tensor:
    """2^bits numbers of least weighted squared distance to values [...]: [n] float64, ascending.

    weights: like values, at least 0; alike without them or where all are 0; a value of less than
    1e-12 of all weight does not count.  Exact by dynamic programming (Wang and Song 2011) for up
    to 1024 distinct values; more are put into about 1024 bins first, and Lloyd's iteration on all
    values ends the search at a local optimum.  No chance is involved.  Fewer distinct values than
    2^bits are returned as they are.  Raises DataError for values that are not finite and weights
    that are negative.
    """
    x, w = _distinct(values, weights)
    count = 2**bits
    if len(x) <= count:
        return torch.from_numpy(x)
    sums = _Sums.of(x, w)
    if len(x) <= _ATOMS:
        return torch.from_numpy(sums.means(_best_starts(sums, np.arange(len(x) + 1), count)))
    return torch.from_numpy(_lloyd(x, sums, _best_starts(sums, _bins(x), count)))


def _distinct(values: Tensor, weights: Tensor | None) -> tuple[Floats, Floats]:
    """Values that count, distinct and ascending, and their weights."""
    x = values.detach().double().reshape(-1).cpu().numpy()
    w = np.ones_like(x)
    if weights is not None:
        w = weights.detach().double().reshape(-1).cpu().numpy()
    if not (len(x) and np.isfinite(x).all() and np.isfinite(w).all() and (w >= 0).all()):
        raise DataError(
            f"k-means takes finite values and finite weights of at least 0; of {len(x)} values "
            f"{np.sum(~np.isfinite(x))} are not finite, {np.sum(~(w >= 0))} weights below 0"
        )
    w = w if w.any() else np.ones_like(x)
    found, inverse = np.unique(x[w > 0], return_inverse=True)
    mass = np.bincount(inverse, weights=w[w > 0]).astype(np.float64)
    kept = mass >= _NOTHING * mass.sum()
    return found[kept], mass[kept]


@dataclass(frozen=True, kw_only=True)
class _Sums:
    """Of weight, weight * x and weight * x^2 over the first i values, x taken from their mean."""

    centre: float
    zeroth: Floats
    first: Floats
    second: Floats

    @staticmethod
    def of(x: Floats, w: Floats) -> _Sums:
        w = w / w.sum()
        centre = float((w * x).sum())
        moved = x - centre  # differences of sums of squares lose what all values share
        parts = (np.concatenate(([0.0], np.cumsum(w * moved**p))) for p in range(3))
        zeroth, first, second = parts
        return _Sums(centre=centre, zeroth=zeroth, first=first, second=second)

    def means(self, starts: Places) -> Floats:
        """Mean of every cluster, given where each starts and the last one ends."""
        return np.diff(self.first[starts]) / np.diff(self.zeroth[starts]) + self.centre

    def costs(self, edges: Places) -> Floats:
        """Squared error of the cluster from atom i to atom j: [n, n], infinite for i > j."""
        zeroth, first, second = (s[edges] for s in (self.zeroth, self.first, self.second))
        with np.errstate(divide="ignore", invalid="ignore"):
            spread = second[None, 1:] - second[:-1, None]
            spread -= (first[None, 1:] - first[:-1, None]) ** 2 / (
                zeroth[None, 1:] - zeroth[:-1, None]
            )
        return np.where(np.triu(np.ones_like(spread, dtype=bool)), spread.clip(min=0), np.inf)


def _bins(x: Floats) -> Places:
    """Where about 1024 bins of x start and the last one ends: one half of them equally wide, the
    other equally full."""
    wide = np.searchsorted(x, np.linspace(x[0], x[-1], _ATOMS // 2, endpoint=False))
    full = np.linspace(0, len(x), _ATOMS // 2 + 1).astype(np.intp)
    return np.unique(np.concatenate((wide, full)))


def _best_starts(sums: _Sums, edges: Places, count: int) -> Places:
    """Where the best `count` clusters of atoms start and the last one ends, as places in x."""
    costs = sums.costs(edges)
    least, choices = costs[0], []
    for _ in range(count - 1):
        # row i: the last cluster starts at atom i + 1
        tried = least[:-1, None] + costs[1:]
        choice = tried.argmin(0)
        least = np.take_along_axis(tried, choice[None], 0)[0]
        choices.append(choice + 1)
    ends = [len(costs)]
    for choice in reversed(choices):
        ends.append(int(choice[ends[-1] - 1]))
    return edges[[0, *reversed(ends)]]


def _lloyd(x: Floats, sums: _Sums, starts: Places) -> Floats:
    """Means of clusters after Lloyd's iteration from the ones that start at `starts`."""
    for _ in range(_ROUNDS):
        means = sums.means(starts)
        borders = np.searchsorted(x, (means[1:] + means[:-1]) / 2)
        moved = np.unique(np.concatenate(([0], borders, [len(x)])))
        if np.array_equal(moved, starts):
            break
        starts = moved
    return sums.means(starts)
