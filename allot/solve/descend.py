"""Descend: points made better by moves of one choice or two, within the limits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

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

    Iterated conditional modes (Besag 1986), exact at once where there are no blocks.  Choices
    that share no block change together: those that gain more than all whom they share one with.
    """
    flat = problem.flat
    index = np.zeros(len(problem.free), dtype=np.intp) if start is None else start.copy()
    for turn in range(SWEEPS * 4):
        alone = turn == 0 and start is None
        costs = weights @ (flat.single if alone else flat.given(index))
        least = np.minimum.reduceat(costs, flat.starts[:-1]) if len(index) else costs
        best = _first(costs, least, flat.starts)
        if alone:
            index = best
            continue
        gain = costs[flat.mine(index)] - least
        move = (gain > 0) & _leads(gain, flat.block, flat.choice)
        if not move.any():
            break
        index = np.where(move, best, index)
    return index


def _first(costs: Array, least: Array, starts: Index) -> Index:
    """The first option of every choice that costs the least."""
    at = np.flatnonzero(costs == np.repeat(least, np.diff(starts)))
    first = at[np.searchsorted(at, starts[:-1])]
    found: Index = first - starts[:-1]
    return found


def _leads(gain: Array, block: Index, choice: Index) -> NDArray[np.bool_]:
    """Whether a choice gains more than every other in each of its blocks; ties by position."""
    rank = np.empty(len(gain), dtype=np.intp)
    rank[np.argsort(gain, kind="stable")] = np.arange(len(gain))
    top = np.full(int(block.max(initial=-1)) + 1, -1, dtype=np.intp)
    np.maximum.at(top, block, rank[choice])
    leads = np.ones(len(gain), dtype=np.bool_)
    leads[choice[rank[choice] < top[block]]] = False
    return leads


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
    sum: float
    room: Array
    change: Array
    floor: Array
    own_floor: Array
    choice: Index
    option: Index

    @staticmethod
    def at(problem: Problem, index: Index, limits: Limits) -> _Step:
        flat = problem.flat
        sizes = np.diff(flat.starts)
        given = flat.given(index)
        now = flat.values(index)
        return _Step(
            problem=problem,
            limits=limits,
            index=index,
            harm=value(problem, index),
            sum=float(now[0]),
            room=limits.at - now[1:],
            change=given - np.repeat(given[:, flat.mine(index)], sizes, axis=1),
            floor=_floors(problem, index),
            own_floor=np.concatenate([np.zeros(0), *problem.floors]),
            choice=np.repeat(np.arange(len(index)), sizes),
            option=np.arange(flat.starts[-1]) - np.repeat(flat.starts[:-1], sizes),
        )

    def single(self) -> tuple[int, ...] | None:
        """The best move of one choice, None if none betters the harm."""
        total = np.maximum(self.sum + self.change[0], self.floor)
        ok = (self.change[1:] <= self.room[:, None]).all(axis=0)
        return self._first([(m,) for m in _best(np.where(ok, total, np.inf), self.harm)])

    def double(self) -> tuple[int, ...] | None:
        """The best found move of two choices, taken as if they shared no block, then checked.

        One of the two lowers the sum, so only such moves are joined with all others.
        """
        room = self.room + 1e-9 * np.abs(self.room)
        lower = np.flatnonzero(self.change[0] < 0)
        ok = self.choice[lower, None] != self.choice[None, :]
        for k in range(len(room)):
            change = self.change[k + 1]
            ok &= change[lower, None] + change[None, :] <= room[k]
        a, b = np.nonzero(ok)
        a = lower[a]
        total = np.maximum(self.sum + self.change[0][a] + self.change[0][b], self._pair_floor(a, b))
        return self._first([(int(a[m]), int(b[m])) for m in _best(total, self.harm)])

    def _pair_floor(self, a: Index, b: Index) -> Array:
        """The floor of pairs of moves, or somewhat more."""
        own = np.maximum(self.own_floor[a], self.own_floor[b])
        found: Array = np.maximum(own, np.minimum(self.floor[a], self.floor[b]))
        return found

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
    if not len(index):
        return np.zeros(0)
    own = np.array([f[i] for f, i in zip(problem.floors, index, strict=True)])
    second, top = np.sort(np.append(own, [problem.floor_base, -np.inf]))[-2:]
    others = np.where(own == top, second, top)
    return np.maximum(
        np.concatenate(problem.floors), np.repeat(others, np.diff(problem.flat.starts))
    )
