"""ModelOpt: the two solvers of NVIDIA's auto_quantize, for their two scores.

Read in modelopt/torch/quantization/algorithms.py of NVIDIA TensorRT Model Optimizer 0.4x.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from allot.searchers.exhaust import spread
from allot.searchers.knapsack import verified
from allot.space import Point
from allot.table import Table, Term
from allot.trials import Limits, Trials
from benchmarks.search.opponents.plain import order_of_cost


def gradient(trials: Trials, *, harm: Sequence[Table], seed: int) -> None:
    """The integer program over scores made monotone, measured like `verified`."""
    verified(trials, harm=[monotone(trials, harm[0])], seed=seed)


def monotone(trials: Trials, table: Table) -> Table:
    """Every option's score cut to that of the next cheaper option of its choice, where smaller.

    As they do, against the uncut score of that option alone, so that it need not become monotone.
    """
    terms = []
    for i, (order, n) in enumerate(zip(order_of_cost(trials), trials.space.counts, strict=True)):
        scores = table.single(i, n)
        values, before = scores.copy(), np.inf
        for o in reversed(order):
            values[o], before = min(scores[o], before), scores[o]
        terms.append(Term(at=(i,), values=values))
    return replace(table, origin=f"{table.origin}, cut", terms=tuple(terms), vectors=None)


def least_worst(trials: Trials, *, harm: Sequence[Table], seed: int) -> None:
    """The plan of least largest score at every level, by bisection of a threshold; measured.

    The last iterate is returned, as they do, which may lie above the budget it was asked for;
    then it counts for looser levels only.
    """
    points = [last_iterate(trials, monotone(trials, harm[0]), v) for v in trials.levels]
    trials.measure(list(dict.fromkeys(points[i] for i in spread(len(points)))))


def last_iterate(trials: Trials, table: Table, limits: Limits, *, iterations: int = 100) -> Point:
    """Every choice takes its cheapest option of a score within the threshold (the cheapest of
    all where none is), and the threshold is halved towards the limits.
    """
    orders = [list(reversed(o)) for o in order_of_cost(trials)]
    scores = [table.single(i, n) for i, n in enumerate(trials.space.counts)]
    low, high = min(float(s.min()) for s in scores), max(float(s.max()) for s in scores)
    threshold, point = (low + high) / 2, trials.space.original
    for _ in range(iterations):
        point = tuple(
            next((o for o in order if s[o] <= threshold), order[0])
            for order, s in zip(orders, scores, strict=True)
        )
        if trials.fits(point, limits):
            high = threshold
        else:
            low = threshold
        threshold = (low + high) / 2
    return point
