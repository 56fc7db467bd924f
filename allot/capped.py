"""Capped: an evaluator for one signal, that refuses work beyond what a search may spend in all."""

from __future__ import annotations

import math
from collections.abc import Sequence

from allot.errors import InputError
from allot.evaluate import Evaluator
from allot.measure import Loss
from allot.space import Point, Space


class Capped:
    """The `Evaluator` inside, until `most` F are spent.

    A signal cannot be half asked, so that too few passes are an error: InputError, raised before
    plans are measured that cannot be paid, and after other work once it is too much.  It names how
    many the signal takes, as far as its progress tells (`reached`).
    """

    def __init__(self, inner: Evaluator, *, most: float) -> None:
        self.inner, self.most = inner, most
        self.space: Space = inner.space
        self.samples, self.recovery = inner.samples, inner.recovery
        self._start = inner.spent
        self._foreseen = 0.0

    @property
    def spent(self) -> float:
        return self.inner.spent

    def reached(self, share: float) -> None:
        """The share of its work that the signal has done."""
        if share > 0:
            self._foreseen = self._start + (self.spent - self._start) / share

    def charge(self, passes: float) -> None:
        self.inner.charge(passes)
        self._check(self.spent)

    def costs(self, points: Sequence[Point], *, share: float = 1.0) -> list[float]:
        return self.inner.costs(points, share=share)

    def losses(self, points: Sequence[Point], *, share: float = 1.0) -> list[Loss]:
        self._check(self.spent + sum(self.costs(points, share=share)))
        return self.inner.losses(points, share=share)

    def _check(self, needed: float) -> None:
        if needed <= self.most * (1 + 1e-9):
            return
        least = max(needed, self._foreseen)
        raise InputError(
            f"--evaluations {self.most:g} is too few: estimating what every option does takes "
            f"{'about' if self._foreseen else 'at least'} {least:.3g} forward passes over the "
            f"search set, and measuring plans some more; allow {math.ceil(least) + 16}"
        )
