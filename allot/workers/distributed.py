"""Distributed: an evaluator whose plans are run by workers, and counted as if run here."""

from __future__ import annotations

from collections.abc import Sequence

from allot.in_process import InProcess, Values
from allot.measure import Loss
from allot.space import Point, Space
from allot.workers.crew import Crew, Piece, carry_out, cut


class Distributed:
    """The `Evaluator` that has a crew measure what `inner` lacks.

    Everything lands in the memo of `inner`, which then answers: losses, costs and what a resumed
    job finds are the same for any number of workers and for none (with as many threads of torch).
    """

    def __init__(self, inner: InProcess, crew: Crew) -> None:
        self._inner, self._crew = inner, crew
        self.space: Space = inner.space
        self.samples: int = inner.samples
        self.recovery: str = inner.recovery

    @property
    def spent(self) -> float:
        return self._inner.spent

    def charge(self, passes: float) -> None:
        self._inner.charge(passes)

    def costs(self, points: Sequence[Point], *, share: float = 1.0) -> list[float]:
        return self._inner.costs(points, share=share)

    def losses(self, points: Sequence[Point], *, share: float = 1.0) -> list[Loss]:
        """As in process; raises JobError where workers are lost again and again at some plans."""
        lacking = self._inner.lacking(points, share=share)
        pieces = [piece for span, group in lacking for piece in cut(group, span)]
        try:
            carry_out(self._crew, pieces, done=self._store)
        except BaseException:
            self.close()  # answers still on their way must not meet later questions
            raise
        return self._inner.losses(points, share=share)

    def close(self) -> None:
        """Ends the workers."""
        self._crew.close()

    def _store(self, piece: Piece, found: list[Values]) -> None:
        for point, values in zip(piece.points, found, strict=True):
            self._inner.store(point, piece.span, values)
