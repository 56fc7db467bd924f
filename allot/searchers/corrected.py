"""Corrected: what plans lose over what is predicted of them, learned from plans that were measured.

The log of the ratio is a sum over kinds of change (steps left out, steps that reuse, cheap weights,
cheap tensors, and how they meet) and of a part that neighbours share; both Gaussian a priori, so
this is the mean of a Gaussian process (Rasmussen and Williams 2006, chapter 2).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_factor, cho_solve

from allot.displaced import Displaced
from allot.options.steps import Drop, Reuse
from allot.space import Point
from allot.table import Array

# prior spreads of log ratios: of the level, of a kind at its fullest, of what neighbours share, and
# of what is left; choices in which two plans differ when they have 1/e in common
_LEVEL, _KIND, _NEAR, _NOISE, _REACH = 1.0, 0.7, 0.4, 0.1, 6.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Corrected:
    """points [m, choices], kinds [m, kinds] of what was measured, and the solved process [m]."""

    harm: Displaced
    points: Array
    kinds: Array
    solved: Array

    def __call__(self, point: Point) -> float:
        """The mean log ratio that is expected of a plan; 0 where nothing was measured."""
        if not len(self.points):
            return 0.0
        own = _covariance(kinds(self.harm, point)[None], self.kinds, np.array([point]), self.points)
        return float(own[0] @ self.solved)


def corrected(
    harm: Displaced, points: Sequence[Point], divergences: Sequence[float], *, least: float
) -> Corrected:
    """After plans of these measured divergences; least: what counts as none."""
    if not len(points):
        none = np.zeros((0, 0))
        return Corrected(harm=harm, points=none, kinds=none, solved=np.zeros(0))
    features = np.array([kinds(harm, p) for p in points])
    at = np.array(points, dtype=np.float64)
    told = np.log([max(harm.predicted(p), least) for p in points])
    logs = np.log([max(d, least) for d in divergences]) - told
    prior = _covariance(features, features, at, at)
    factor = cho_factor(prior + _NOISE**2 * np.eye(len(points)))
    return Corrected(harm=harm, points=at, kinds=features, solved=cho_solve(factor, logs))


def _covariance(a: Array, b: Array, x: Array, y: Array) -> Array:
    """Prior covariance of plans x [m, choices] and y [k, choices] of kinds a and b: [m, k]."""
    apart = (x[:, None] != y[None]).sum(-1)
    found: Array = _LEVEL**2 + _KIND**2 * a @ b.T + _NEAR**2 * np.exp(-apart / _REACH)
    return found


def kinds(harm: Displaced, point: Sequence[int]) -> Array:
    """Shares of a plan's choices that are of a kind, and products of two: [kinds]."""
    options = [harm.space.choices[i].options[point[i]] for i in harm.steps]
    left = sum(isinstance(o, Drop) for o in options) / len(options)
    again = sum(isinstance(o, Reuse) for o in options) / len(options)
    mild = [harm.mild[i] for i in harm.steps]
    taken = [point[i] for i in harm.steps]
    coarse = sum(
        not isinstance(o, Drop | Reuse) and t > m
        for o, t, m in zip(options, taken, mild, strict=True)
    ) / len(options)
    # by the size of what they do, for a weight need not matter
    at = {k: harm.squares[p, p] for k, p in harm.alone.items() if k[0] not in harm.steps}
    whole = sum(at.values())
    cheap = sum(v for (i, o), v in at.items() if point[i] == o) / whole if whole else 0.0
    single = np.array([left, again, cheap, coarse])
    i, j = np.triu_indices(4, k=1)
    return np.concatenate([single, 2 * (single[:, None] * single)[i, j]])
