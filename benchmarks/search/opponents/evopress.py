"""EvoPress: one parent, budget-preserving mutations, selection on growing shares of the data."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from allot.searchers.evolve import uniform
from allot.space import Point
from allot.table import Table
from allot.trials import Limits, Trials
from benchmarks.search.opponents.plain import Bills, lowered, moved

# share of the data and who survives it, the last one against the parent
STAGES = ((1 / 16, 4), (1 / 4, 1), (1.0, 1))
# generations in a row without a plan that was not seen before, after which a level is done
IDLE = 8
# of what is taken away for it, the least that a mutation must give
GIVEN = 0.8


def evopress(
    trials: Trials,
    *,
    harm: Sequence[Table],
    seed: int,
    targets: int = 4,
    offspring: int = 16,
    generations: int = 150,
) -> None:
    """A (1 + offspring) evolution at each of a few levels, which share the budget evenly.

    After Sieberling et al. 2024 (arXiv 2410.14649) and their script evo_quant_search.py with
    mutations between layers of different sizes.  targets: how many of the levels, evenly spaced
    with the tightest among them; a single level is the authors' own setting.  Levels are visited
    from tight to loose; what one leaves unspent goes to the next.

    Deviation: once a generation brings no new plan, mutations may give back less than `GIVEN`;
    between few choices of unequal size the authors' script would draw for ever.
    """
    g, bills = np.random.default_rng(seed), Bills(trials)
    last = len(trials.levels) - 1
    chosen = sorted({round(last * (j + 1) / targets) for j in range(targets)}, reverse=True)
    for k, at in enumerate(chosen):
        until = trials.evaluator.spent + trials.left / (len(chosen) - k)
        one_level(
            bills, trials.levels[at], g, until=until, offspring=offspring, generations=generations
        )


def one_level(
    bills: Bills,
    limits: Limits,
    g: np.random.Generator,
    *,
    until: float,
    offspring: int,
    generations: int,
) -> None:
    """The evolution at one level, until so much F is spent or there is nothing new to try.

    Nothing is done where no plan meets the limits.
    """
    trials, idle = bills.trials, 0
    parent = started(bills, limits, g, most=offspring)
    if parent is None:
        return
    trials.measure([parent])
    for _ in range(generations):
        given = 0.0 if idle else GIVEN
        born = mutants(bills, parent, limits, g, most=offspring, given=given)
        new = sum(trials.evaluator.costs(born, share=STAGES[0][0])) > 0
        idle = 0 if new else idle + 1
        if idle == IDLE or trials.evaluator.spent >= until:
            return
        best = selected(trials, parent, born, until=until)
        if best is None:
            return
        parent = best


def started(bills: Bills, limits: Limits, g: np.random.Generator, *, most: int) -> Point | None:
    """A plan within the limits: the uniform one just above them, lowered at random; the best of
    several on the smallest share of the data.
    """
    trials = bills.trials
    above = [p for p in uniform(trials.space.counts) if not bills.fits(p, limits)]
    start = above[0] if above else trials.space.original
    found = [lowered(bills, start, limits, g) for _ in range(most)]
    able = list(dict.fromkeys(p for p in found if p is not None))
    if len(able) <= 1:
        return able[0] if able else None
    losses = trials.screen(able, share=STAGES[0][0])
    return able[int(np.argmin([x.divergence for x in losses]))]


def mutants(
    bills: Bills,
    parent: Point,
    limits: Limits,
    g: np.random.Generator,
    *,
    most: int,
    given: float = GIVEN,
) -> list[Point]:
    """Distinct offspring within the limits, at most so many, fewer where few are met."""
    found: dict[Point, None] = {}
    for _ in range(6 * most):
        child = mutant(bills, parent, limits, g, given=given)
        if child is not None and child != parent:
            found[child] = None
        if len(found) == most:
            break
    return list(found)


def mutant(
    bills: Bills, parent: Point, limits: Limits, g: np.random.Generator, *, given: float
) -> Point | None:
    """One to three choices made milder, then others harsher until the limits are met again.

    None, as in the authors' script, where this takes more than ten changes or gives less than so
    much of what it takes; there in bits, here in the mean relative bill.
    """
    flips, child = int(min(g.integers(1, 4, 2))), parent
    for _ in range(flips):
        able = [i for i, o in enumerate(child) if o]
        if not able:
            break
        child = moved(child, able[int(g.integers(len(able)))], -1)
    milder, found = child, lowered(bills, child, limits, g)
    if found is None:
        return None
    changes = flips + sum(found) - sum(milder)
    up = bills.relative(milder)
    added, taken = up - bills.relative(parent), up - bills.relative(found)
    return found if changes <= 10 and added >= given * taken else None


def selected(trials: Trials, parent: Point, born: Sequence[Point], *, until: float) -> Point | None:
    """The best of the offspring and the parent, who joins on all of the data.

    None where a stage would go beyond what may be spent on this level.
    """
    left = list(born)
    for share, survivors in STAGES[:-1]:
        if not affords(trials, left, share, until):
            return None
        losses = trials.screen(left, share=share)
        order = np.argsort([x.divergence for x in losses], kind="stable")
        left = [left[i] for i in order[:survivors]]
    if not affords(trials, left, 1.0, until):
        return None
    found = trials.measure([parent, *left])
    return min(found, key=lambda m: m.divergence).point


def affords(trials: Trials, points: Sequence[Point], share: float, until: float) -> bool:
    """Whether the points can be measured without going beyond so much F."""
    cost = sum(trials.evaluator.costs(points, share=share))
    return trials.evaluator.spent + cost <= until + 1e-9
