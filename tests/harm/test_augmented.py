"""Laws of the augmented Hessian: second order where layers do not meet, more where they do.

Faults these laws must catch: a pair counted whole on both sides; parts not taken off; pairs of a
choice with itself; options of one choice changing places; a factor below nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
import pytest

from allot.evaluate import Evaluator
from allot.harm.augmented import augmented
from allot.harm.hawq import hawq
from allot.measure import Loss
from allot.scene import Scene
from allot.space import Point, Space
from allot.table import Table
from tests.harm import laws


def signal(scene: Scene) -> Table:
    return augmented(scene, probes=10)


@pytest.mark.parametrize("law", laws.EVERY)
def test_it_is_a_signal(law: object) -> None:
    law(signal)  # type: ignore[operator]


def test_progress() -> None:
    laws.progresses(lambda s, f: augmented(s, probes=9, progress=f))


@dataclass(kw_only=True)
class Told:
    """An evaluator that adds up harms and what pairs do beyond them, both as told."""

    space: Space
    alone: float
    pairs: dict[tuple[int, int], float]
    samples: int = 1
    recovery: str = "none"
    spent: float = 0.0

    def charge(self, passes: float) -> None:
        self.spent += passes

    def costs(self, points: Sequence[Point], *, share: float = 1.0) -> list[float]:
        return [share] * len(points)

    def losses(self, points: Sequence[Point], *, share: float = 1.0) -> list[Loss]:
        self.charge(len(points) * share)
        return [Loss(divergences=(self.of(p),), scores=(1.0,)) for p in points]

    def of(self, point: Point) -> float:
        on = [i for i, o in enumerate(point) if o]
        pairs = sum(self.pairs.get(p, 0.0) for p in combinations(on, 2))
        return 7.0 + self.alone * len(on) + pairs


def told(pairs: dict[tuple[int, int], float]) -> Scene:
    s = laws.scene("weight")
    evaluator: Evaluator = Told(space=s.space, alone=0.5, pairs=pairs)
    return replace(s, evaluator=evaluator)


def test_without_dependencies_it_is_the_hessian_in_the_measured_unit() -> None:
    plain, found = hawq(told({}), probes=10), signal(told({}))
    scale = 3 * 0.5 / sum(t.values.max() for t in plain.terms)
    for a, b in zip(found.terms, plain.terms, strict=True):
        assert a.values == pytest.approx(scale * b.values, rel=1e-9)


def test_what_a_pair_loses_is_given_to_both_halves_at_their_harshest() -> None:
    plain, found = signal(told({})), signal(told({(0, 1): 0.3, (1, 2): 0.1}))
    extra = [f.values.max() - p.values.max() for f, p in zip(found.terms, plain.terms, strict=True)]
    assert extra == pytest.approx([0.15, 0.2, 0.05], rel=1e-6)


def test_harshest_everywhere_loses_what_was_measured() -> None:
    s = told({(0, 1): 0.3, (1, 2): -0.1})
    found = signal(s)
    worst = tuple(int(np.argmax(t.values)) for t in found.terms)
    (measured,) = s.evaluator.losses([worst])
    assert found.of(worst) == pytest.approx(measured.divergence - 7.0)


def test_errors_that_cancel_leave_the_order_of_options() -> None:
    plain, found = signal(told({})), signal(told({(0, 1): -9.0}))
    for i in (0, 1):
        assert found.terms[i].values == pytest.approx(0.1 * plain.terms[i].values, rel=1e-9)


def test_no_more_pairs_are_measured_than_asked() -> None:
    s, few = told({}), told({})
    signal(s)
    augmented(few, probes=10, most=1)
    # the first point, parts, pairs; the Hessian costs the same
    assert s.evaluator.spent - few.evaluator.spent == pytest.approx((1 + 3 + 3) - (1 + 2 + 1))
