"""Capped: an evaluator for signals, that refuses work beyond what a search may spend in all."""

from __future__ import annotations

import math
from collections.abc import Sequence

from allot.errors import InputError
from allot.evaluate import Evaluator
from allot.measure import Loss
from allot.space import Point, Space


class Capped:
    """The `Evaluator` inside, until `most` F are spent.

    A signal cannot be half asked, so that too few passes are an error: InputError, which names how
    many it takes.  Of plans it is said before any of them is measured; of other work, which a
    signal counts as it goes, once it is too much.
    """

    def __init__(self, inner: Evaluator, *, most: float) -> None:
        self.inner, self.most = inner, most
        self.space: Space = inner.space
        self.samples, self.recovery = inner.samples, inner.recovery

    @property
    def spent(self) -> float:
        return self.inner.spent

    def charge(self, passes: float) -> None:
        self.inner.charge(passes)
        self._check(self.spent)

    def costs(self, points: Sequence[Point], *, share: float = 1.0) -> list[float]:
        return self.inner.costs(points, share=share)

    def losses(self, points: Sequence[Point], *, share: float = 1.0) -> list[Loss]:
        self._check(self.spent + sum(self.costs(points, share=share)))
        return self.inner.losses(points, share=share)

    def _check(self, needed: float) -> None:
        if needed > self.most * (1 + 1e-9):
            raise InputError(
                f"--evaluations {self.most:g} is too few: estimating what every option does takes "
                f"{needed:.4g} forward passes over the search set, and measuring plans takes more; "
                f"allow at least {math.ceil(needed) + 1}"
            )
