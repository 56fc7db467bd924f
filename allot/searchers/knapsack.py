"""Knapsack: a signal and an exact solver, with the plans that they choose measured."""

from __future__ import annotations

import math
from collections.abc import Sequence

from allot.searchers.exhaust import Choice, Program, between, cheapest, least, program, spread
from allot.table import Table
from allot.trials import Limits, Trials


def open_loop(trials: Trials, *, harm: Sequence[Table], seed: int) -> None:
    """For every level the exact optimum of the first table, measured so that it is known.

    Nothing is corrected by what was measured (HAWQ-V3, Yao et al. 2021; ZeroQ, Cai et al. 2020;
    AdaQuant, Hubara et al. 2021 all end here).  The exact optimum of a separable table is the
    same by integer program and by dynamic program.  seed: nothing is drawn.
    """
    measure(trials, cheapest(trials, harm[0]))


def verified(trials: Trials, *, harm: Sequence[Table], seed: int, patience: int = 6) -> None:
    """The optima of the first table at the levels and between them, then the next best plans.

    First one solve per level; then two rounds of the next best plan of every level, which the
    table puts before any plan of a tighter budget; then levels two and four times as dense; then
    the next best again until `patience` rounds brought no level a better plan, or none is left.
    A round measures plans of least foretold regret first.  With measured one-at-a-time harm this
    is the strongest plain way to choose: exact, all of it measured, and nothing learned.
    seed: nothing is drawn.
    """
    task = program(trials, harm[0])
    measure(trials, [least(task, limits) for limits in trials.levels])
    for _ in range(2):
        next_best(task)
    for parts in (2, 4):
        measure(trials, [least(task, limits) for limits in between(trials.levels, parts)])
    idle = 0
    while idle < patience:
        before = standing(trials)
        if not next_best(task):
            return
        idle = 0 if standing(trials) != before else idle + 1


def next_best(task: Program) -> bool:
    """Measures for every level the best plan not measured yet; False where none is left."""
    trials = task.trials
    found: dict[tuple[int, ...], tuple[float, Choice]] = {}
    for limits in trials.levels:
        best = least(task, limits)
        new = least(task, limits, excluded=[*trials.plans, *found])
        if best is not None and new is not None:
            found[new.point] = (regret(new, best), new)
    order = sorted(found.values(), key=lambda f: f[0])
    chosen = [c for _, c in order]
    trials.measure([c.point for c in chosen], foretold=[c.foretold for c in chosen])
    return bool(found)


def regret(choice: Choice, best: Choice) -> float:
    """How much more harm a choice is foretold to do than the best one, relative to that."""
    return (choice.harm - best.harm) / max(abs(best.harm), 1e-12)


def measure(trials: Trials, choices: Sequence[Choice | None]) -> None:
    """What was chosen from loose to tight, measured as one batch in the order of `spread`."""
    ordered = [choices[i] for i in spread(len(choices))]
    found = {c.point: c for c in ordered if c is not None}
    trials.measure(list(found), foretold=[c.foretold for c in found.values()])


def standing(trials: Trials) -> list[float]:
    """Least measured divergence at every level, infinite without a plan."""

    def best(limits: Limits) -> float:
        found = trials.best(limits)
        return math.inf if found is None else found.divergence

    return [best(limits) for limits in trials.levels]
