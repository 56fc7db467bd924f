"""Replay: an evaluator whose losses were all stored before, its costs counted as if it measured."""

from __future__ import annotations

from collections.abc import Sequence

from allot.measure import Loss
from allot.space import Point
from allot.trie import batch_costs, opening, trie, wanted
from benchmarks.search.store import Enumeration


class Replay:
    """The `Evaluator` of an enumerated space.

    Costs are those of `allot.in_process.InProcess` on the same samples, by the same functions:
    the original's pass is spent at the start, and that of the space's first point where it is
    another network.
    """

    def __init__(self, enumeration: Enumeration) -> None:
        self.enumeration = enumeration
        self.space = enumeration.space
        self.samples = enumeration.search.codes.shape[1]
        self.recovery = enumeration.recovery
        self._tree = trie(self.space)
        self._known: dict[Point, int] = {}
        self._spent = opening(self.space, samples=self.samples, calibration=enumeration.calibration)

    @property
    def spent(self) -> float:
        return self._spent

    def charge(self, passes: float) -> None:
        self._spent += passes

    def costs(self, points: Sequence[Point], *, share: float = 1.0) -> list[float]:
        return batch_costs(
            self._tree,
            points,
            original=self.space.original,
            known=self._known,
            want=wanted(share, self.samples),
            samples=self.samples,
            calibration=self.enumeration.calibration,
        )

    def losses(self, points: Sequence[Point], *, share: float = 1.0) -> list[Loss]:
        want = wanted(share, self.samples)
        self._spent += sum(self.costs(points, share=share))
        for p in points:
            self._known[p] = max(want, self._known.get(p, 0))
        return [self.enumeration.search.loss(self.enumeration.index(p), want) for p in points]
