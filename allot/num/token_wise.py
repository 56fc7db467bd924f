"""Token-wise: a range by the extremes of tokens, coarse to fine."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from allot.num.activation_ranges import ActivationRange, Seen, check_least, quantile
from allot.num.affine import Range, covering, rounded
from allot.num.formats import Grid

_SHARES = 64
_GOLDEN = (math.sqrt(5) - 1) / 2


@dataclass(frozen=True, kw_only=True)
class TokenWise(ActivationRange):
    """Clips by the extremes of tokens: few tokens have large ones, and these matter little.

    Coarse: the range lies between a quantile of the tokens' largest values and the opposite one
    of their least, the quantile that of least error (Wei et al. 2022, Outlier Suppression).
    Fine: the step is varied about that, never to a larger error.  Two deviations: the error is
    the mean over tokens of a token's squared error over its squares, where the paper takes that
    of the network's output, which a rule for one tensor does not see (every token counts alike,
    so that huge ones do not rule, as in a plain sum); the step is found by golden section within
    25 %, where the paper follows gradients.
    """

    reads_tokens: ClassVar[bool] = True
    least: float = 0.5

    def __post_init__(self) -> None:
        check_least(self.least)

    @property
    def label(self) -> str:
        return "tokenwise"

    def fit(self, seen: Seen, grid: Grid) -> Range:
        assert seen.tokens is not None and seen.rows is not None
        rows, tokens = seen.rows.float(), seen.tokens.double().sort(dim=0).values.T
        shares = torch.linspace(self.least, 1.0, _SHARES).tolist()
        highs = [quantile(tokens[1], s)[None].float() for s in shares]
        lows = [quantile(tokens[0], 1 - s)[None].float() for s in shares]
        ranges = [covering(a, b, grid) for a, b in zip(lows, highs, strict=True)]
        errors = [token_error(rows, rounded(rows, *r, grid)) for r in ranges]
        coarse, zero = ranges[errors.index(min(errors))]

        def error(factor: float) -> float:
            return token_error(rows, rounded(rows, coarse * factor, zero, grid))

        return coarse * _golden(error, 0.75, 1.25, start=1.0), zero


def token_error(rows: Tensor, q: Tensor) -> float:
    """Mean over tokens of squared error over squares: rows, q [m, n]; tokens of 0 count nothing."""
    wrong, whole = ((x.double().square()).sum(1) for x in (rows - q, rows))
    return float(torch.where(whole > 0, wrong / whole, torch.zeros_like(whole)).mean())


def _golden(error: Callable[[float], float], low: float, high: float, *, start: float) -> float:
    """Least of a function by golden section; the best of all that was tried, `start` too."""
    tried = {start: error(start)}

    def at(x: float) -> float:
        tried.setdefault(x, error(x))
        return tried[x]

    for _ in range(16):
        a, b = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        low, high = (low, b) if at(a) <= at(b) else (a, high)
    return min(tried, key=lambda x: tried[x])
