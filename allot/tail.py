"""Tail: how long calls take at worst, with a bound, and what their spread comes from.

What varies is repeated under control, as Liu et al. (2022, time variations of inference in
autonomous driving) take it apart: inputs, threads, background load, one loading of the network to
the next, and what is left from call to call.  Their further sources (devices, sensors, whole
pipelines) lie outside of one network on one machine.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binom

from allot.errors import InputError

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Quantile:
    """A quantile of n calls [s]. upper: its bound at `confidence`, inf where calls are too few."""

    p: float
    value_s: float
    upper_s: float
    confidence: float
    n: int


def quantile(samples: Sequence[float], p: float, *, confidence: float = 0.95) -> Quantile:
    """The p-quantile of calls and its upper confidence bound, whatever their distribution is.

    Of n independent calls the number below the true quantile is binomial, so the k-th smallest
    lies at or above it with probability P(Bin(n, p) < k); the smallest such k is taken (Conover
    1999).  Raises InputError for no samples.
    """
    ordered = np.sort(np.asarray(samples, dtype=np.float64))
    n = len(ordered)
    if n == 0:
        raise InputError("a quantile needs calls, there are none")
    ranks = np.arange(1, n + 1)
    sure = ranks[binom.cdf(ranks - 1, n, p) >= confidence]
    return Quantile(
        p=p,
        # the smallest sample with a share of at least p at or below it
        value_s=float(ordered[max(math.ceil(p * n - 1e-9), 1) - 1]),
        upper_s=float(ordered[sure[0] - 1]) if len(sure) else math.inf,
        confidence=confidence,
        n=n,
    )


def calls_needed(p: float, *, confidence: float = 0.95) -> int:
    """Calls from which on the largest bounds the p-quantile: 299 for p99 at 95 %."""
    return math.ceil(math.log(1 - confidence) / math.log(p) - 1e-9)


@dataclass(frozen=True, kw_only=True)
class Source:
    """What one condition adds to the spread.

    share: of the variance of all calls.  chance: the share that a condition without any effect
    would have on average.  levels: of the condition, with the mean seconds at each.
    """

    name: str
    share: float
    chance: float
    levels: Mapping[str, float]


@dataclass(frozen=True, kw_only=True)
class Spread:
    """The variance of calls [s^2] taken apart: the shares of all sources add up to 1.

    Last stand "together", what conditions do only in combination, and "call to call", what is left
    among calls under the same conditions.
    """

    variance: float
    sources: tuple[Source, ...]
    n: int

    def of(self, name: str) -> Source:
        """The source of a name."""
        return next(s for s in self.sources if s.name == name)

    def dump(self) -> dict[str, Any]:
        return asdict(self)


def spread(times: Array, factors: Mapping[str, Sequence[str]]) -> Spread:
    """Sums of squares of a balanced design (Fisher 1925): times [levels of each factor, repeats].

    factors: condition -> names of its levels, in the order of the dims.  Raises InputError where
    the shape is another or no call was repeated.
    """
    shape = tuple(len(levels) for levels in factors.values())
    if times.shape[:-1] != shape or times.shape[-1] < 2:
        raise InputError(
            f"times of shape {times.shape}; wanted {(*shape, 'two or more')}: a dim for each of "
            f"{', '.join(factors)}, then the repeats"
        )
    dims = range(len(shape))
    total = float(((times - times.mean()) ** 2).sum())
    cells = times.mean(-1)
    between = times.shape[-1] * float(((cells - cells.mean()) ** 2).sum())
    mains = [_main(times, d) for d in dims]
    free = [n - 1 for n in shape]
    joint = math.prod(shape) - 1 - sum(free)
    sums = [*mains, max(0.0, between - sum(mains)), max(0.0, total - between)]
    chances = [*free, joint, times.size - math.prod(shape)]
    levels = [_means(times, d, names) for d, names in zip(dims, factors.values(), strict=True)]
    parts = zip([*factors, "together", "call to call"], sums, chances, strict=True)
    sources = [
        Source(
            name=name,
            share=_share(square, total),
            chance=chance / (times.size - 1),
            levels=levels[i] if i < len(levels) else {},
        )
        for i, (name, square, chance) in enumerate(parts)
    ]
    return Spread(variance=total / times.size, sources=tuple(sources), n=times.size)


def _share(part: float, total: float) -> float:
    return part / total if total > 0 else 0.0


def _others(times: Array, dim: int) -> tuple[int, ...]:
    return tuple(d for d in range(times.ndim) if d != dim)


def _main(times: Array, dim: int) -> float:
    """The sum of squares of one condition alone."""
    means = times.mean(_others(times, dim))
    return float(((means - times.mean()) ** 2).sum()) * times.size / len(means)


def _means(times: Array, dim: int, names: Sequence[str]) -> dict[str, float]:
    found = times.mean(_others(times, dim)).tolist()
    return dict(zip(names, found, strict=True))
