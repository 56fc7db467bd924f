"""Evolve: NSGA-II over points, with the divergence and every bill as objectives (Deb et al. 2002).

The genotype is the point itself, whole numbers per choice. pymoo keeps the population; measuring
is done by the trials, so that no plan is paid for twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from allot.errors import MissingError
from allot.searchers.exhaust import told
from allot.space import Point
from allot.table import Array, Table
from allot.trials import Trials

if TYPE_CHECKING:
    from pymoo.algorithms.moo.nsga2 import NSGA2

# objectives of points, all to be made small: [m, objectives]
Objectives = Callable[[Sequence[Point]], Array]


def nsga2(
    trials: Trials,
    *,
    harm: Sequence[Table],
    seed: int,
    population: int = 0,
    generations: int = 50,
) -> None:
    """NSGA-II on measured divergence and exact bills.

    population: 0 for one sized to what may still be spent and, in tiny spaces, to these.
    harm: not looked at.  The first population holds the plans with the same relative option
    everywhere, among them the cheapest one, so that every level has a plan; the rest is random.
    Raises MissingError without pymoo.
    """
    size = population or min(sized(trials.left), max(8, math.prod(trials.space.counts) // 8))
    evolve(
        trials.space.counts,
        measured(trials),
        first=[*uniform(trials.space.counts), *random(trials.space.counts, size, seed=seed)][:size],
        generations=generations,
        seed=seed,
    )


def sized(evaluations: float) -> int:
    """Members of a population for so many evaluations: half as many generations, 8 to 64."""
    return 64 if math.isinf(evaluations) else max(8, min(64, round(math.sqrt(2 * evaluations))))


def measured(trials: Trials) -> Objectives:
    """Log of the measured divergence, and every bill relative to the original's."""

    def of(points: Sequence[Point]) -> Array:
        found = trials.measure(points)
        losses = np.log(np.maximum([m.divergence for m in found], 1e-12))
        return np.column_stack([losses, billed(trials, points)])

    return of


def billed(trials: Trials, points: Sequence[Point] | NDArray[np.intp]) -> Array:
    """Every bill relative to the original's: [m, bills]."""
    index = np.asarray(points, dtype=np.intp).reshape(-1, len(trials.space.counts))
    found = [told(b, index) / trials.originals[k] for k, b in trials.bills.items()]
    return np.column_stack(found)


def uniform(counts: Sequence[int]) -> list[Point]:
    """The plans with the same relative option at every choice, from the harshest to the mildest."""
    shares = sorted({o / (n - 1) for n in counts if n > 1 for o in range(n)}, reverse=True)
    points = [tuple(math.floor(s * (n - 1) + 0.5) for n in counts) for s in shares]
    return list(dict.fromkeys(points))


def random(counts: Sequence[int], most: int, *, seed: int) -> list[Point]:
    """Distinct points drawn evenly, at most so many."""
    g = np.random.default_rng(seed)
    drawn = g.integers(0, np.asarray(counts), size=(4 * most, len(counts)))
    return list(dict.fromkeys(tuple(int(o) for o in row) for row in drawn))[:most]


def evolve(
    counts: Sequence[int],
    objectives: Objectives,
    *,
    first: Sequence[Point],
    generations: int,
    seed: int,
) -> list[Point]:
    """NSGA-II from a first population; the last one's points that no other of it beats.

    Simulated binary crossover and polynomial mutation, rounded; no point twice in a population.
    """
    algorithm = _algorithm(counts, first, generations=generations, seed=seed)
    while algorithm.has_next():
        asked = algorithm.ask()
        if asked is None or len(asked) == 0:
            break
        asked.set("F", objectives(_points(asked.get("X"))))
        algorithm.tell(infills=asked)
    return list(dict.fromkeys(_points(algorithm.opt.get("X"))))


def _algorithm(
    counts: Sequence[int], first: Sequence[Point], *, generations: int, seed: int
) -> NSGA2:
    try:
        from pymoo.algorithms.moo.nsga2 import NSGA2
        from pymoo.core.problem import Problem
        from pymoo.operators.crossover.sbx import SBX
        from pymoo.operators.mutation.pm import PM
        from pymoo.operators.repair.rounding import RoundingRepair
    except ModuleNotFoundError as e:
        raise MissingError("NSGA-II needs pymoo: pip install allot[bench]") from e
    top = np.asarray(counts) - 1
    problem: Any = Problem(n_var=len(counts), xl=0 * top, xu=top, vtype=int)
    algorithm = NSGA2(
        pop_size=len(first),
        sampling=np.asarray(first),
        crossover=SBX(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()),
        mutation=PM(prob=1.0, eta=3.0, vtype=float, repair=RoundingRepair()),
        eliminate_duplicates=True,
    )
    algorithm.setup(problem, termination=("n_gen", generations), seed=seed)
    return algorithm


def _points(x: NDArray[Any]) -> list[Point]:
    return [tuple(int(o) for o in row) for row in np.rint(x)]
