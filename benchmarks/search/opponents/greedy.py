"""Greedy: from the original on, the measured step of least harm per gain, again and again."""

from __future__ import annotations

from collections.abc import Sequence

from allot.searchers.bisect import relative
from allot.space import Point
from allot.table import Table
from allot.trials import Trials
from benchmarks.search.opponents.plain import moved


def remeasured(trials: Trials, *, harm: Sequence[Table], seed: int) -> None:
    """All steps to the next option of one choice are measured, the best is taken, and so on until
    the cheapest level is met; nothing is assumed of what was measured before.

    Steps that make nothing cheaper are not looked at.
    """
    here = trials.space.original
    while not trials.fits(here, trials.levels[-1]):
        steps = [
            p
            for i, n in enumerate(trials.space.counts)
            if here[i] < n - 1
            and relative(trials, p := moved(here, i, +1)) < relative(trials, here)
        ]
        if not steps:
            return
        here = best(trials, here, steps)


def best(trials: Trials, here: Point, steps: Sequence[Point]) -> Point:
    """The step of least added divergence per share of the bills that it saves."""
    start = trials.measure([here])[0].divergence
    cost = relative(trials, here)
    found = trials.measure(steps)
    rates = [(m.divergence - start) / (cost - relative(trials, m.point)) for m in found]
    return steps[rates.index(min(rates))]
