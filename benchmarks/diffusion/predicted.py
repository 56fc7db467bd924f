"""Predicted: what parts foretell of whole plans, against what happens at noises nobody has seen."""

from __future__ import annotations

import numpy as np
from scipy.stats import spearmanr

from allot.harm.rollouts import eyes
from allot.samplers.rolled import Rolled
from allot.searchers.over_time import SETS, allowed
from allot.space import Point
from benchmarks.diffusion.networks import NETWORKS
from benchmarks.diffusion.searched import Searched, measurable
from benchmarks.figures import Figure, at_least, at_most

RANK, RATIO = 0.93, (0.7, 1.4)
PLANS, QUICK_PLANS = 60, 12
NOISES, QUICK_NOISES = 128, 32


def run(quick: bool, seed: int) -> dict[str, Figure]:
    """Both networks; a quick run takes the first one, with fewer plans and noises."""
    found: dict[str, Figure] = {}
    for name in NETWORKS[:1] if quick else NETWORKS:
        found |= agreement(measurable(name, quick=quick, seed=seed), quick=quick, seed=seed)
    return found


def agreement(s: Searched, *, quick: bool, seed: int) -> dict[str, Figure]:
    """Rank correlation and median ratio of true over predicted squared error of features."""
    plans = random_plans(s, QUICK_PLANS if quick else PLANS, seed=seed)
    n = QUICK_NOISES if quick else NOISES
    data = s.network.task.certify.subset(slice(0, n))
    evaluator = s.trials.evaluator
    assert isinstance(evaluator, Rolled)
    look = eyes(s.network.task)
    original = look(evaluator.samples_of(s.network.space.original, data))
    told, true = [], []
    for p in plans:
        key = f"plan/{'.'.join(map(str, p))}/{n}"

        def error(p: Point = p) -> float:
            moved = look(evaluator.samples_of(p, data)) - original
            return float((moved**2).sum(1).mean())

        true.append(s.store.memo.get(key, error))
        told.append(s.harm.squared(p))
    ratios = np.array(true) / np.array(told)
    rank = float(spearmanr(told, true)[0])
    draws = np.random.default_rng(seed).integers(len(plans), size=(500, len(plans)))
    ranks = [float(spearmanr(np.array(told)[d], np.array(true)[d])[0]) for d in draws]
    medians = np.median(ratios[draws], axis=1)
    name, middle = s.network.task.name, float(np.median(ratios))
    quartiles = [float(v) for v in np.quantile(ratios, [0.25, 0.75])]
    return {
        f"{name}: rank of predicted error": at_least(
            rank, RANK, interval=_middle(ranks), n=len(plans), seeds=[seed], noises=n
        ),
        f"{name}: true over predicted error, median": at_most(
            max(middle / RATIO[1], RATIO[0] / middle), 1.0,
            n=len(plans), seeds=[seed],
            median=middle, within=list(RATIO), median_interval=list(_middle(medians)),
            quartiles=quartiles,
        ),
    }  # fmt: skip


def _middle(values: object) -> tuple[float, float]:
    low, high = np.quantile(np.asarray(values, dtype=np.float64), [0.025, 0.975])
    return float(low), float(high)


def random_plans(s: Searched, count: int, *, seed: int) -> list[Point]:
    """Joint plans by chance, of steps that meet as they were measured: every kind of change in a
    share of its choices that is drawn for each plan."""
    g = np.random.default_rng(seed)
    names = list(SETS)
    found: list[Point] = []
    while len(found) < count:
        options = allowed(s.harm, SETS[names[int(g.integers(len(names)))]])
        weights, steps = g.uniform(0, 1), g.uniform(0, 0.8)
        # one reuse for a plan: another one right behind it is no meeting of the search
        fixed = {i: int(g.integers(len(o))) for i, o in enumerate(options)}
        at = set(s.harm.steps)
        point = list(s.harm.mild)
        pick = int(g.integers(1 << 30))
        for i, o in enumerate(options):
            rest = [x for x in o if x != s.harm.mild[i]]
            if rest and g.random() < (steps if i in at else weights):
                again = pick if g.random() < 0.7 else fixed[i]
                point[i] = rest[again % len(rest)] if i in at else rest[-1]
        new = tuple(point)
        if new not in found and new != s.harm.mild and s.harm.parts(new)[1] == 0:
            found.append(new)
    return found
