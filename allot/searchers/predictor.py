"""Predictor: NSGA-II on what a light predictor says, measured and learned from, again and again.

The predictor says log divergence; bills need none, they are exact. What it promises most of
is measured in small batches and the predictor is fitted anew (AMQ, Lee et al. 2025, with radial
basis functions; SimQ-NAS, Sridhar Kundu Sharath Nittur et al. 2023, with ridge regression).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import RBFInterpolator

from allot.searchers.evolve import billed, evolve, random, uniform
from allot.searchers.exhaust import MOST, told
from allot.space import Point
from allot.surrogate import indicators
from allot.table import Array, Table
from allot.trials import Trials

# log divergence of points [m, choices] -> [m]
Predict = Callable[[NDArray[np.intp]], Array]
# (options per choice, points [m, choices], their log divergence [m]) -> what predicts others
Fit = Callable[[Sequence[int], NDArray[np.intp], Array], Predict]


def rbf(counts: Sequence[int], points: NDArray[np.intp], values: Array) -> Predict:
    """Cubic radial basis functions with a linear tail over the options' places in [0, 1]."""
    scale = np.maximum(np.asarray(counts) - 1, 1)
    free = np.ptp(points, axis=0) > 0  # a choice that never varied makes the tail singular
    known = points[:, free] / scale[free]
    degree = 1 if np.linalg.matrix_rank(known - known[0]) == free.sum() else 0
    kernel = "cubic" if degree else "linear"
    found = RBFInterpolator(known, values, kernel=kernel, degree=degree, smoothing=1e-9)
    return lambda asked: np.asarray(found(asked[:, free] / scale[free]))


def ridge(counts: Sequence[int], points: NDArray[np.intp], values: Array) -> Predict:
    """Ridge regression on one 0/1 column per option, its penalty by leave-one-out error."""
    x, mean = indicators(points, counts), float(values.mean())
    left, sizes, right = np.linalg.svd(x, full_matrices=False)
    seen = left.T @ (values - mean)
    best, weights = np.inf, np.zeros(x.shape[1])
    for penalty in 10.0 ** np.arange(-4, 3):
        shrunk = sizes**2 / (sizes**2 + penalty)
        own = np.clip((left**2) @ shrunk, 0, 1 - 1e-6)
        error = float(np.mean(((values - mean - left @ (shrunk * seen)) / (1 - own)) ** 2))
        if error < best:
            best, weights = error, right.T @ (seen * sizes / (sizes**2 + penalty))
    return lambda asked: mean + indicators(asked, counts) @ weights


def predicted(
    trials: Trials,
    *,
    harm: Sequence[Table],
    seed: int,
    fit: Fit = rbf,
    first: int = 0,
    batch: int = 8,
    rounds: int = 100,
) -> None:
    """Random plans, then rounds of predicted fronts of which `batch` new plans are measured.

    first: plans before the first fit, 0 for one and a half per option; the plans of the same
    relative option everywhere are among them.  harm: not looked at.  Ends after `rounds` or when
    nothing new is foretold.

    Deviations: AMQ strikes out options of high sensitivity beforehand, which tight budgets may
    need; and it takes from the predicted front what fills the gaps of the measured one, where
    here what promises most at a level is taken (which found better plans).
    """
    counts = trials.space.counts
    size = first or round(1.5 * sum(n - 1 for n in counts)) + 1
    trials.measure([*uniform(counts), *random(counts, size, seed=seed)][:size])
    for k in range(rounds):
        points = list(trials.plans)
        known = np.array([trials.plans[p].divergence for p in points])
        predict = fit(counts, np.asarray(points), np.log(np.maximum(known, 1e-12)))
        chosen = promising(trials, predict, batch, seed=seed + 1 + k)
        if not chosen:
            return
        trials.measure(chosen)


def promising(trials: Trials, predict: Predict, most: int, *, seed: int) -> list[Point]:
    """The plans not measured yet that are foretold to better some level most, at most so many.

    For every level it is the best foretold plan that is looked at, taken from all plans of a
    small space and from an evolved population in a larger one.
    """
    new = unmeasured(trials, predict, seed=seed)
    if not len(new):
        return []
    values = predict(new)
    gains: dict[Point, float] = {}
    for limits in trials.levels:
        inside = np.ones(len(new), dtype=bool)
        for name, limit in limits.items():
            inside &= told(trials.bills[name], new) <= limit
        if inside.any():
            at = int(np.argmin(np.where(inside, values, np.inf)))
            best, point = trials.best(limits), tuple(int(o) for o in new[at])
            known = np.log(max(best.divergence, 1e-12)) if best else np.inf
            gains[point] = max(float(known - values[at]), gains.get(point, -np.inf))
    return sorted(gains, key=lambda p: -gains[p])[:most]


def unmeasured(trials: Trials, predict: Predict, *, seed: int) -> NDArray[np.intp]:
    """All points of a small space that are not measured; of a larger one the last population of
    NSGA-II on what is predicted, from the measured front on: [m, choices].
    """
    counts = trials.space.counts
    if math.prod(counts) <= MOST:
        new = np.ones(counts, dtype=bool)
        new[tuple(np.asarray(list(trials.plans)).T)] = False
        return np.argwhere(new)

    def objectives(points: Sequence[Point]) -> Array:
        return np.column_stack([predict(np.asarray(points)), billed(trials, points)])

    front = [m.point for m in trials.front().points][:64]
    first = list(dict.fromkeys([*front, *random(counts, 96, seed=seed)]))[:96]
    last = evolve(counts, objectives, first=first, generations=40, seed=seed)
    return np.asarray([p for p in last if p not in trials.plans], dtype=np.intp)
