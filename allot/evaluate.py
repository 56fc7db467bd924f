"""Evaluate: plans measured on the search data after cheap recovery, and what that costs.

Costs are counted in F, one forward pass of the whole network over all search samples: a backward
pass is 2 F; recovery, replayed prefixes and partial data count pro rata (MACs x samples).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from allot.measure import Loss
from allot.space import Point, Space


class Evaluator(Protocol):
    """Measures points of one space; whatever was measured once is free from then on.

    space: of the points.  samples: size of the search set.  recovery: name of what repairs every
    plan before it is measured.  spent: F so far, of measurements and of what was charged.
    """

    space: Space
    samples: int
    recovery: str

    @property
    def spent(self) -> float: ...

    def charge(self, passes: float) -> None:
        """Counts work that a signal does on its own [F]."""

    def costs(self, points: Sequence[Point], *, share: float = 1.0) -> list[float]:
        """F that `losses` would spend on each of the points, taken as one batch.

        In a batch, sorted by execution order, what a point shares with the one before it (or
        with the original) is replayed, so it is not paid again.
        """

    def losses(self, points: Sequence[Point], *, share: float = 1.0) -> list[Loss]:
        """Losses of the points on the first share of the samples, in the order given.

        A point seen on fewer samples before is paid for the rest alone.
        """
