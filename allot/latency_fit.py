"""Latency fit: the factors of the latency model from a few networks that were timed.

T(plan) = a + sum over layers of alone * (b + extra of its kind, if it computes in floats)
+ vain * elements put on codes in vain + leaving * elements that leave integer layers as floats.
How much faster integers are inside a network than alone differs from kind to kind of layer, by its
shape; the extras say it, as far as networks that were left out show that they help.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import lsq_linear, nnls

from allot.errors import InputError

Array = NDArray[np.float64]

# sum of layers [s], elements in vain, elements leaving, seconds measured
Sample = tuple[float, float, float, float]
# kind of layer -> per plan, seconds alone of its layers that compute in floats: [n]
Floats = Mapping[str, Array]

# how far extras may lie from 0, in units of b; what a measured time is off by, relative; by how
# much extras have to lower the error of plans left out
_SPREADS, _NOISE, _GAIN = (0.3, 0.6), 0.02, 0.9


@dataclass(frozen=True, kw_only=True)
class Fit:
    """T = a + b * sum + vain * elements in vain + leaving * elements leaving [s].

    extras: kind of layer -> what is added to b where one computes in floats.  error: mean relative
    error on each of its n samples when fitted to the others.
    """

    a: float
    b: float
    vain: float
    leaving: float
    error: float
    n: int
    extras: Mapping[str, float] = field(default_factory=dict)


def fit(samples: Sequence[Sample], floats: Floats | None = None) -> Fit:
    """Least squares of relative errors with no factor below 0 (Lawson and Hanson 1974).

    Extras are drawn to 0 (Hoerl and Kennard 1970); how strongly, or whether there are any, is what
    foretells each plan best from the others.  Raises InputError for fewer than four samples or
    times that are not positive.
    """
    data = np.asarray(samples, dtype=np.float64).reshape(-1, 4)
    if len(data) < 4 or (data[:, 3] <= 0).any():
        raise InputError(f"a latency model needs four or more positive times, got {len(data)}")
    columns = np.concatenate([np.ones((len(data), 1)), data[:, :3]], axis=1)
    kinds = {k: v for k, v in (floats or {}).items() if np.ptp(v) > 0}
    extra = np.stack(list(kinds.values()), axis=1) if kinds else np.zeros((len(data), 0))
    spread, best = 0.0, _left_out(columns, extra, data[:, 3], 0.0)
    for s in _SPREADS if kinds else ():
        error = _left_out(columns, extra, data[:, 3], s)
        if error < _GAIN * best:
            spread, best = s, error
    (a, b, vain, leaving), found = _factors(columns, extra, data[:, 3], spread)
    extras = dict(zip(kinds, found.tolist(), strict=True)) if spread else {}
    return Fit(
        a=float(a), b=float(b), vain=float(vain), leaving=float(leaving), error=best,
        n=len(data), extras=extras,
    )  # fmt: skip


def _left_out(columns: Array, extra: Array, seconds: Array, spread: float) -> float:
    """Mean relative error of each plan foretold from the others."""
    errors = []
    for i in range(len(seconds)):
        rest = np.arange(len(seconds)) != i
        factors, extras = _factors(columns[rest], extra[rest], seconds[rest], spread)
        errors.append(abs((columns[i] @ factors + extra[i] @ extras) / seconds[i] - 1))
    return float(np.mean(errors))


def _factors(columns: Array, extra: Array, seconds: Array, spread: float) -> tuple[Array, Array]:
    """Factors of the columns [n, k], none below 0, and extras [kinds], none below -b."""
    unit = np.abs(columns).max(0)
    unit[unit == 0] = 1.0
    scaled = columns / unit / seconds[:, None]
    plain, _ = nnls(scaled, np.ones(len(seconds)))
    step = spread * plain[1] / unit[1]
    if step == 0:
        return plain / unit, np.zeros(extra.shape[1])
    kinds = extra.shape[1]
    rows = np.concatenate([scaled, extra * step / seconds[:, None]], axis=1) / _NOISE
    drawn = np.concatenate([np.zeros((kinds, 4)), np.eye(kinds)], axis=1)
    wanted = np.concatenate([np.full(len(seconds), 1 / _NOISE), np.zeros(kinds)])
    least = np.concatenate([np.zeros(4), np.full(kinds, -1 / spread)])
    found = lsq_linear(np.concatenate([rows, drawn]), wanted, bounds=(least, np.inf)).x
    return found[:4] / unit, np.maximum(step * found[4:], -found[1] / unit[1])
