"""Figures: one measured number beside the bar it has to meet, as every benchmark returns them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

Figure = dict[str, Any]


def at_most(
    value: float,
    bar: float,
    *,
    n: int,
    seeds: Sequence[int],
    interval: tuple[float, float] | None = None,
    **more: Any,
) -> Figure:
    """A figure that holds where its value is at most the bar."""
    return {
        "value": value,
        "bar": bar,
        "holds": bool(value <= bar),
        "n": n,
        "interval": None if interval is None else [float(v) for v in interval],
        "seeds": list(seeds),
        **more,
    }


def at_least(
    value: float,
    bar: float,
    *,
    n: int,
    seeds: Sequence[int],
    interval: tuple[float, float] | None = None,
    **more: Any,
) -> Figure:
    """A figure that holds where its value is at least the bar."""
    found = at_most(value, bar, n=n, seeds=seeds, interval=interval, **more)
    return found | {"holds": bool(value >= bar)}


def mean_interval(x: ArrayLike) -> tuple[float, float]:
    """95 % normal interval of a mean over independent samples."""
    values = np.asarray(x, dtype=np.float64)
    half = 1.96 * float(values.std(ddof=1)) / math.sqrt(len(values))
    return float(values.mean()) - half, float(values.mean()) + half
