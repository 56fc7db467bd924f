"""Seen: what was measured so far as the search looks at it, in logs, level by level."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from allot.space import Point
from allot.surrogate import LEAST, Index
from allot.table import Array
from allot.trials import Limits, Trials

Fits = NDArray[np.bool_]
# plan -> log divergence as a part of the data tells it, and its standard error
Screened = Mapping[Point, tuple[float, float]]

# what lies above the front is asked to fit less well: standard error per log above it
_OFF_FRONT = 0.03
# a level that nothing measured fits counts as this far above the worst that was measured
_UNMET = 2.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """points: [m, choices].  logs: of their divergence [m].  doubts: standard error of those that
    only a part of the data told [m], 0 for the others.  fits: [m, levels]."""

    points: Index
    logs: Array
    doubts: Array
    fits: Fits

    @staticmethod
    def of(trials: Trials, levels: Sequence[Limits], screened: Screened) -> Seen:
        """What the trials measured, and estimates for plans that were screened out."""
        every = [*trials.plans, *screened]
        points = np.array(every, dtype=np.intp).reshape(-1, len(trials.space.counts))
        found = [math.log(max(m.divergence, LEAST)) for m in trials.plans.values()]
        estimates = list(screened.values())
        return Seen(
            points=points,
            logs=np.array(found + [log for log, _ in estimates]),
            doubts=np.array([0.0] * len(found) + [doubt for _, doubt in estimates]),
            fits=within(trials, points, levels),
        )

    @property
    def best(self) -> Array:
        """The least log divergence at every level: [levels]."""
        worst = float(self.logs.max(initial=math.log(LEAST)))
        sure = self.fits & (self.doubts == 0)[:, None]
        return np.where(sure, self.logs[:, None], worst + _UNMET).min(0, initial=math.inf)

    @property
    def errors(self) -> Array:
        """Standard error that every log is taken to have: [m].

        The front is where plans are chosen, so it is there that the belief has to be right.
        """
        goal = np.where(self.fits, self.best[None, :], -math.inf).max(1, initial=-math.inf)
        goal = np.where(np.isfinite(goal), goal, self.logs.min())
        found: Array = np.hypot(_OFF_FRONT * np.maximum(0.0, self.logs - goal), self.doubts)
        return found

    def with_point(self, point: Point, log: float, fits: Fits) -> Seen:
        """As if a point had been measured too."""
        return Seen(
            points=np.concatenate([self.points, np.array([point], dtype=np.intp)]),
            logs=np.append(self.logs, log),
            doubts=np.append(self.doubts, 0.0),
            fits=np.concatenate([self.fits, fits[None, :]]),
        )

    def among(self, points: Index) -> Fits:
        """Which of some points were seen: [m]."""
        known = {tuple(p) for p in self.points.tolist()}
        return np.array([tuple(p) in known for p in points.tolist()], dtype=bool)


def within(trials: Trials, points: Index, levels: Sequence[Limits]) -> Fits:
    """Which points [m, choices] are within which limits: [m, levels]."""
    bills = {k: b.over(points) for k, b in trials.bills.items()}
    found = np.ones((len(points), len(levels)), dtype=bool)
    for at, limits in enumerate(levels):
        for name, most in limits.items():
            found[:, at] &= bills[name] <= most
    return found
