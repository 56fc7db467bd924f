"""Histogram: how often each code occurs, as a coder and its reader share it, hard and soft."""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Bytes = NDArray[np.uint8]

# of a code that does not occur
ABSENT = 255
# a code's cost is stored in eighths of a bit: what that loses is below 0.0005 bits a code
_PARTS = 8
_HIGHEST = 190
# 2^24 times 2^(-i/8): whole numbers, so that every machine reads the same model
_FRACTIONS = [round(2 ** (24 - i / _PARTS)) for i in range(_PARTS)]


def costs(counts: NDArray[np.int64]) -> Bytes:
    """The histogram [m] that is stored: -log2 of each code's share, in eighths of a bit."""
    seen = counts > 0
    share = np.where(seen, counts, 1) / max(1, int(counts.sum()))
    eighths = np.clip(np.round(-_PARTS * np.log2(share)), 0, _HIGHEST)
    return np.where(seen, eighths, ABSENT).astype(np.uint8)


def weights(costs: Bytes) -> NDArray[np.int64]:
    """Shares [m] times about 2^24 of a stored histogram: whole numbers, 0 where it is ABSENT."""
    whole = np.array(_FRACTIONS, dtype=np.int64)[costs % _PARTS] >> (costs // _PARTS)
    return np.where(costs == ABSENT, 0, np.maximum(whole, 1))


def stored_bits(counts: NDArray[np.int64], costs: Bytes) -> float:
    """Bits of all codes together by a stored histogram, its own byte per code among them."""
    share = weights(costs) / weights(costs).sum()
    lengths = -np.log2(np.where(share > 0, share, 1))
    return float((counts * lengths).sum()) + 8 * len(costs)


def entropy_bits(counts: NDArray[np.int64]) -> float:
    """Least bits of all codes together when each is coded on its own: n * H(counts / n)."""
    n, seen = int(counts.sum()), counts[counts > 0]
    return float((seen * (math.log2(n) - np.log2(seen))).sum()) if n else 0.0


def soft_counts(x: Tensor, lo: int, hi: int) -> Tensor:
    """Counts [hi - lo + 1] of values x [...] in units of codes, each value shared by its two
    neighbours by nearness; differentiable.  On whole numbers they are the counts.

    A triangular kernel, as one of those of L2 compression (Shi et al. 2023) is.
    """
    inside = x.flatten().clamp(lo, hi)
    below = inside.detach().floor().clamp(lo, max(lo, hi - 1))
    up = inside - below
    at = (below - lo).long()
    counts = x.new_zeros(hi - lo + 2)
    counts = counts.scatter_add(0, at, 1 - up).scatter_add(0, at + 1, up)
    return counts[: hi - lo + 1]


def soft_bits(x: Tensor, lo: int, hi: int) -> Tensor:
    """Bits that x [...] would take by its own soft histogram: a scalar, differentiable.

    On whole numbers it is `entropy_bits` of their counts.
    """
    counts = soft_counts(x, lo, hi)
    lengths = lengths_of(counts)
    return (counts * lengths).sum()


def lengths_of(counts: Tensor, *, floor: float = 0.0) -> Tensor:
    """Bits [m] that each code takes by a histogram [m], 0 where it has none.

    floor: is added to every count, so that a code which did not occur has a length too.
    """
    raised = counts + floor
    share = raised / raised.sum()
    return torch.where(share > 0, -share.clamp(min=1e-30).log2(), 0.0)
