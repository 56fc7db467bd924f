"""Descend: points made better by moves of one choice or two, within the limits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from allot.solve.problem import Index, Problem
from allot.space import Point
from allot.table import Array

SWEEPS = 12
MOVES = 300
PAIRS = 24  # best pairs of moves that are evaluated exactly


@dataclass(frozen=True, kw_only=True, eq=False)
class Limits:
    """Upper limits of the bills [K-1] and points that may not be returned."""

    at: Array
    excluded: frozenset[Point] = frozenset()


def fits(problem: Problem, index: Index, limits: Limits) -> bool:
    """Whether every bill of an index [free] is within its limit and it is not excluded."""
    within = bool((problem.values(index)[1:] <= limits.at).all())
    return within and problem.point(index) not in limits.excluded


def value(problem: Problem, index: Index) -> float:
    """Harm of an index: the sum of the terms, no less than the highest floor."""
    floors = (float(f[i]) for f, i in zip(problem.floors, index, strict=True))
    return max(float(problem.values(index)[0]), problem.floor_base, *floors, -np.inf)


def coordinate(problem: Problem, weights: Array, *, start: Index | None = None) -> Index:
    """Index [free] that no change of one choice betters, for weights over the tables [K].

    Iterated conditional modes (Besag 1986): exact in one sweep where there are no blocks.
    """
    if start is None:
        index = np.array([int((weights @ s).argmin()) for s in problem.single], dtype=np.intp)
    else:
        index = start.copy()
    for _ in range(SWEEPS):
        before = index.copy()
        for c in range(len(index)):
            costs = weights @ problem.given(index, c)
            best = int(costs.argmin())
            if costs[best] < costs[index[c]]:
                index[c] = best
        if (index == before).all():
            break
    return index


def polish(problem: Problem, index: Index, limits: Limits) -> Index:
    """The index [free] after the best moves of one choice, then of two, while harm falls."""
    for _ in range(MOVES):
        step = _Step.at(problem, index, limits)
        better = step.single() or step.double()
        if better is None:
            break
        index = np.array(better, dtype=np.intp)
    return index


@dataclass(frozen=True, kw_only=True, eq=False)
class _Step:
    """All moves of one choice from a feasible index: what they change [K, moves]."""

    problem: Problem
    limits: Limits
    index: Index
    harm: float
    room: Array
    change: Array
    floor: Array
    own_floor: Array
    choice: Index
    option: Index

    @staticmethod
    def at(problem: Problem, index: Index, limits: Limits) -> _Step:
        parts = []
        for c, i in enumerate(index):
            given = problem.given(index, c)
            parts.append(given - given[:, i : i + 1])
        now = problem.values(index)
        return _Step(
            problem=problem,
            limits=limits,
            index=index,
            harm=value(problem, index),
            room=limits.at - now[1:],
            change=np.concatenate([np.zeros((len(now), 0)), *parts], axis=1),
            floor=_floors(problem, index),
            own_floor=np.concatenate([np.zeros(0), *problem.floors]),
            choice=np.repeat(np.arange(len(index)), [p.shape[1] for p in parts]),
            option=np.concatenate([np.arange(p.shape[1]) for p in parts] or [index]),
        )

    def single(self) -> tuple[int, ...] | None:
        """The best move of one choice, None if none betters the harm."""
        total = np.maximum(self.problem.values(self.index)[0] + self.change[0], self.floor)
        ok = (self.change[1:] <= self.room[:, None]).all(axis=0)
        return self._first([(m,) for m in _best(np.where(ok, total, np.inf), self.harm)])

    def double(self) -> tuple[int, ...] | None:
        """The best found move of two choices, taken as if they shared no block, then checked."""
        room = self.room + 1e-9 * np.abs(self.room)
        ok = self.choice[:, None] < self.choice[None, :]
        for k in range(len(room)):
            ok &= self.change[k + 1][:, None] + self.change[k + 1][None, :] <= room[k]
        total = self.change[0][:, None] + self.change[0][None, :]
        total += self.problem.values(self.index)[0]
        total = np.where(ok, np.maximum(total, self._pair_floor()), np.inf)
        n = len(self.choice)
        return self._first([divmod(m, n) for m in _best(total.ravel(), self.harm)])

    def _pair_floor(self) -> Array:
        """The floor of pairs of moves [moves, moves], or somewhat more."""
        own = np.maximum(self.own_floor[:, None], self.own_floor[None, :])
        return np.maximum(own, np.minimum(self.floor[:, None], self.floor[None, :]))

    def _first(self, moves: list[tuple[int, ...]]) -> tuple[int, ...] | None:
        for move in moves:
            new = self.index.copy()
            for m in move:
                new[self.choice[m]] = self.option[m]
            if value(self.problem, new) < self.harm and fits(self.problem, new, self.limits):
                return tuple(int(i) for i in new)
        return None


def _best(total: Array, harm: float) -> list[int]:
    """Positions of the lowest totals below the harm, lowest first."""
    few = np.argpartition(total, PAIRS)[:PAIRS] if len(total) > PAIRS else np.arange(len(total))
    return [int(m) for m in few[np.argsort(total[few])] if total[m] < harm]


def _floors(problem: Problem, index: Index) -> Array:
    """Per move of one choice: the highest floor after it."""
    own = np.array([f[i] for f, i in zip(problem.floors, index, strict=True)])
    parts = []
    for c, f in enumerate(problem.floors):
        others = float(np.delete(own, c).max(initial=problem.floor_base))
        parts.append(np.maximum(f, others))
    return np.concatenate([np.zeros(0), *parts])
