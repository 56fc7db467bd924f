"""Anneal: plans of a sampler changed a little again and again, as far as their score falls.

Simulated annealing (Kirkpatrick et al. 1983) on a predicted score, within limits.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Sequence

import numpy as np

from allot.space import Point

Score = Callable[[Point], float]

# temperatures of the log score, first and last
_HOT, _COLD = 0.3, 0.005


def anneal(
    first: Point,
    score: Score,
    *,
    allowed: Sequence[Sequence[int]],
    order: Sequence[int],
    seed: int,
    moves: int = 3000,
    within: int | None = None,
    known: Container[Point] = (),
) -> tuple[Point, float]:
    """The point of least score seen that is not among the known ones, and its score.

    score: infinite for what may not be.  allowed: per choice, options that may be taken.  order:
    choices that follow one another (steps), whose options are exchanged with a neighbour's too.
    within: choices in which a point may differ from the first, None for any.  Where no such point
    was seen: the first, and infinity if it is known.
    """
    g = np.random.default_rng(seed)
    free = [i for i, a in enumerate(allowed) if len(a) > 1]
    now, at = first, score(first)
    best, least = now, math.inf if first in known else at
    if not free:
        return best, least
    for k in range(moves):
        new = _moved(now, free, allowed, order, g)
        if new is None or (within is not None and _apart(new, first) > within):
            continue
        value = score(new)
        heat = _HOT * (_COLD / _HOT) ** (k / moves)
        # an infinite start takes the first point that may be
        if value <= at or (math.isfinite(value) and g.random() < math.exp((at - value) / heat)):
            now, at = new, value
            if at < least and now not in known:
                best, least = now, at
    return best, least


def _apart(a: Point, b: Point) -> int:
    return sum(x != y for x, y in zip(a, b, strict=True))


def _moved(
    point: Point,
    free: Sequence[int],
    allowed: Sequence[Sequence[int]],
    order: Sequence[int],
    g: np.random.Generator,
) -> Point | None:
    """One to three choices changed, or two neighbours exchanged; None for no change."""
    new = list(point)
    if len(order) > 2 and g.random() < 0.35:
        k = int(g.integers(len(order) - 1))
        i, j = order[k], order[k + 1]
        if new[j] not in allowed[i] or new[i] not in allowed[j]:
            return None
        new[i], new[j] = new[j], new[i]
    else:
        # a step and a weight are as likely, however many there are of either
        steps = [i for i in order if len(allowed[i]) > 1]
        rest = [i for i in free if i not in steps]
        for _ in range(int(g.integers(1, 4))):
            pool = steps if not rest or (steps and g.random() < 0.6) else rest
            i = pool[int(g.integers(len(pool)))]
            new[i] = int(allowed[i][int(g.integers(len(allowed[i])))])
    found = tuple(new)
    return None if found == point else found
