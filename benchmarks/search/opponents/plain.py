"""Plain: what needs no thought, random plans of every level's cost and uniform plans."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from allot.searchers import evolve
from allot.searchers.bisect import relative
from allot.searchers.exhaust import spread
from allot.space import Point
from allot.table import Table
from allot.trials import Limits, Trials


def uniform(trials: Trials, *, harm: Sequence[Table], seed: int) -> None:
    """The plans with the same relative option at every choice; as many as options."""
    trials.measure(evolve.uniform(trials.space.counts))


def random(trials: Trials, *, harm: Sequence[Table], seed: int, rounds: int = 200) -> None:
    """Random plans of equal cost: in every round one per level, which just meets it."""
    g, bills = np.random.default_rng(seed), Bills(trials)
    for _ in range(rounds):
        found = [lowered(bills, trials.space.original, v, g) for v in trials.levels]
        chosen = [found[i] for i in spread(len(found))]
        trials.measure([p for p in chosen if p is not None])


class Bills:
    """The bills of points of some trials, each worked out once."""

    def __init__(self, trials: Trials) -> None:
        self.trials = trials
        self._known: dict[Point, dict[str, float]] = {}

    def of(self, point: Point) -> dict[str, float]:
        found = self._known.get(point)
        if found is None:
            found = {k: b.of(point) for k, b in self.trials.bills.items()}
            self._known[point] = found
        return found

    def relative(self, point: Point) -> float:
        """Mean over the bills of a plan's bill divided by the original's."""
        found = self.of(point)
        return sum(v / self.trials.originals[k] for k, v in found.items()) / len(found)

    def fits(self, point: Point, limits: Limits) -> bool:
        found = self.of(point)
        return all(found[k] <= v for k, v in limits.items())


def lowered(bills: Bills, start: Point, limits: Limits, g: np.random.Generator) -> Point | None:
    """The start with random choices set to the next option until it meets the limits.

    None where even the last options of all do not meet them.
    """
    here = start
    while not bills.fits(here, limits):
        able = [i for i, n in enumerate(bills.trials.space.counts) if here[i] < n - 1]
        if not able:
            return None
        here = moved(here, able[int(g.integers(len(able)))], +1)
    return here


def moved(point: Point, at: int, by: int) -> Point:
    """The point with one choice moved by so many options."""
    return (*point[:at], point[at] + by, *point[at + 1 :])


def order_of_cost(trials: Trials) -> list[list[int]]:
    """For every choice its options from the dearest to the cheapest, the others untouched.

    By the mean over bills relative to the original, in which options of equal cost keep order.
    """
    first = trials.space.original

    def ordered(i: int, n: int) -> list[int]:
        costs = [relative(trials, moved(first, i, o)) for o in range(n)]
        return sorted(range(n), key=lambda o: -costs[o])

    return [ordered(i, n) for i, n in enumerate(trials.space.counts)]
