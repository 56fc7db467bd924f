"""Pool: plans that may be worth measuring: all of a small space, exact optima of a large one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from allot.lines import Solver, drawn, likeliest
from allot.seen import Fits, Seen, within
from allot.space import Point
from allot.surrogate import Belief, Index, Known, Model
from allot.trials import Limits, Trials

# up to here every plan is looked at
EVERYTHING = 20_000
# of those one swap away from good plans
_NEIGHBOURS = 4_000


@dataclass(frozen=True, kw_only=True, eq=False)
class Candidates:
    """points: [m, choices], as features and by level."""

    points: Index
    known: Known
    fits: Fits


class Pool(Protocol):
    """Says which plans may be worth measuring, after what was seen."""

    def candidates(self, belief: Belief, seen: Seen, levels: Sequence[Limits]) -> Candidates: ...


class Everything:
    """All plans of a space of at most `EVERYTHING`."""

    def __init__(self, trials: Trials, model: Model) -> None:
        self.trials = trials
        n = len(model.counts)
        self.points = np.indices(model.counts).reshape(n, -1).T.astype(np.intp)
        self.known = model.known(self.points)

    def candidates(self, belief: Belief, seen: Seen, levels: Sequence[Limits]) -> Candidates:
        fits = within(self.trials, self.points, levels)
        return Candidates(points=self.points, known=self.known, fits=fits)


class Optima:
    """Exact optima of the likeliest line and of drawn ones, and what one swap makes of them and
    of the best measured plans.

    draws: lines drawn for each call.  solves: tangents solved for each line; the levels take
    turns.
    """

    def __init__(
        self,
        trials: Trials,
        model: Model,
        *,
        draws: int,
        nodes: int,
        seed: int,
        solves: int = 2,
    ) -> None:
        self.trials, self.model, self.draws, self.solves = trials, model, draws, solves
        self._turn = 0
        self.generator = np.random.default_rng(seed)
        experts = tuple(e.with_pairs(len(model.counts)) for e in model.experts)
        self.solver = Solver(model=model, experts=experts, bills=trials.bills, nodes=nodes)

    def candidates(self, belief: Belief, seen: Seen, levels: Sequence[Limits]) -> Candidates:
        lines = [likeliest(belief, self.model)]
        for _ in range(self.draws):
            lines.append(drawn(belief, self.model, seen.logs, seen.errors, self.generator))
        starts = [_start(seen, at) for at in range(len(levels))]
        found: list[Point] = []
        for line in lines:
            turn = self._levels(len(levels))
            found += self.solver.optima(line, [levels[i] for i in turn], [starts[i] for i in turn])
        best = list(dict.fromkeys([*found, *starts]))
        points = np.array(around(best, self.model.counts, self.generator), dtype=np.intp)
        fits = within(self.trials, points, levels)
        return Candidates(points=points, known=self.model.known(points), fits=fits)

    def _levels(self, count: int) -> list[int]:
        """Which levels are solved this time: every `stride`-th, another set each time."""
        stride = -(-count // self.solves)
        self._turn += 1
        return list(range(self._turn % stride, count, stride))


def _start(seen: Seen, at: int) -> Point:
    """The best measured plan at a level, or of all where none fits it."""
    logs = np.where(seen.fits[:, at], seen.logs, np.inf)
    row = logs.argmin() if np.isfinite(logs).any() else seen.logs.argmin()
    return tuple(int(o) for o in seen.points[row])


def around(
    points: Sequence[Point], counts: Sequence[int], generator: np.random.Generator
) -> list[Point]:
    """The points and those that one other option makes of them, a random part of too many."""
    found = dict.fromkeys(points)
    for p in points:
        for i, n in enumerate(counts):
            found |= dict.fromkeys((*p[:i], o, *p[i + 1 :]) for o in range(n))
    every = list(found)
    if len(every) <= _NEIGHBOURS:
        return every
    rows = generator.choice(len(every), _NEIGHBOURS, replace=False)
    return [*points, *(every[r] for r in sorted(rows))]
