"""Oracles of the recipes that measure while they search: every prefix, every plan.

Faults these must catch: a floor that does not hold; a bisection that stops short, or that measures
the whole list; a joint space of which an axis is left out; a predictor no better than
chance.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pytest
from scipy.stats import kendalltau

from allot.measure import Loss
from allot.recipes import Recipe
from allot.recipes.curvature import AUGMENTED
from allot.recipes.evolution import SIMQ_NAS
from allot.recipes.experts import DELE
from allot.scene import Scene
from allot.searchers.bisect import by_option
from allot.searchers.ensemble import taught, tuned
from allot.searchers.predictor import ridge
from allot.space import Choice, Point, Space
from allot.table import Table
from allot.trials import Limits, Spent, Trials
from tests import small, synthetic, toys
from tests.recipes import cooking
from tests.recipes.cooking import scene

# points of the metric; plans of 288
FLOOR, MEASURED = 12.0, 100


def cheapest_within(trials: Trials, need: float) -> Point:
    """The measured plan of least bytes whose metric is at least `need`."""
    held = [p for p, m in trials.plans.items() if m.metric >= need]
    return min(held, key=lambda p: trials.bills["size"].of(p))


def longest_prefix(trials: Trials, table: Table, need: float) -> Point:
    """What bisection should find, by measuring every prefix of every option's list."""
    base = trials.space.original
    entries = by_option(trials, table)
    for option in sorted({o for _, o in entries}):
        points = [base]
        for i, o in entries:
            if o == option and base[i] == o - 1:
                points.append((*points[-1][:i], o, *points[-1][i + 1 :]))
        metrics = [m.metric for m in trials.measure(points)]
        assert all(a >= b for a, b in itertools.pairwise(metrics)), "no oracle then"
        base = [p for p, m in zip(points, metrics, strict=True) if m >= need][-1]
    return base


@pytest.mark.parametrize("layers", [6, 24, 48])
@pytest.mark.parametrize("floor", [0.1, 0.5, 4.0])
def test_the_floor_is_reached_by_the_longest_prefix_in_log_many_evaluations(
    layers: int, floor: float
) -> None:
    truth = synthetic.truth((3,) * layers, coupling=0.0, samples=3 * layers + 8, seed=layers)
    trials, whole = synthetic.trials(truth), synthetic.trials(truth)
    search = AUGMENTED.searched(budgets=(), max_drop=floor)
    search(trials, harm=(truth.alone(),), seed=0)
    need = trials.plans[trials.space.original].metric - floor / 100
    found = cheapest_within(trials, need)
    assert found == longest_prefix(whole, truth.alone(), need)
    assert len(trials.plans) <= 1 + 2 * math.ceil(math.log2(layers + 1))


def test_on_a_network_the_floor_holds_as_measured_and_one_more_layer_breaks_it() -> None:
    k = cooking.kit(toys.padded)
    s = scene(k, cooking.weights(k, labels=("W8", "W6", "W4", "W2")))
    recipe = replace(AUGMENTED, searcher=AUGMENTED.searched(budgets=(), max_drop=FLOOR))
    dish = cooking.cook(recipe, s)
    need = dish.trials.plans[s.space.original].metric - FLOOR / 100
    found = cheapest_within(dish.trials, need)
    harshest = tuple(n - 1 for n in s.space.counts)
    assert found not in (s.space.original, harshest)
    assert any(m.metric < need for m in dish.trials.plans.values())
    assert len(dish.trials.plans) <= 1 + 3 * math.ceil(math.log2(len(s.space.counts) + 1))


def genotype(k: small.Kit) -> Space:
    """Depth of three blocks, width of two groups and three formats of each stage's weights."""

    def at(site: str, *labels: str) -> Choice:
        return cooking.cut(k.space.choices[k.space.position(site)], labels)

    weights = [c.site for c in k.space.choices if c.options[0].kind == "weight"]
    first = [w for w in weights if not w.startswith(("layer2", "linear"))]
    last = [w for w in weights if w not in first]
    choices = [
        *(replace(at(g[0], "W8", "W4", "W2"), tied=tuple(g[1:])) for g in (first, last)),
        at("layer1.0.conv1.channels", "keep1", "keep0.5"),
        at("layer2.1.conv1.channels", "keep1", "keep0.5"),
        *(c for c in k.space.choices if c.options[0].kind == "block"),
    ]
    return replace(k.space, choices=tuple(choices))


def excess(found: Trials, truth: Mapping[Point, Loss], levels: Sequence[Limits]) -> float:
    """Geometric mean over levels of the divergence found over the least there is."""
    logs = []
    for limits in levels:
        best = found.best(limits)
        least = min(x.divergence for p, x in truth.items() if found.fits(p, limits))
        assert best is not None
        logs.append(math.log(max(best.divergence, 1e-9) / max(least, 1e-9)))
    return math.exp(float(np.mean(logs)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Joint:
    """The joint space of a toy with the losses of all its plans, and tables of DELE's experts."""

    kit: small.Kit
    space: Space
    known: Mapping[Point, Loss]
    levels: Sequence[Limits]
    tables: tuple[Table, ...]

    def scene(self) -> Scene:
        return replace(
            scene(self.kit, self.space), evaluator=cooking.Replay(self.space, self.known)
        )


@pytest.fixture(scope="module")
def joint() -> Joint:
    k = cooking.kit(toys.residual)
    space = genotype(k)
    assert math.prod(space.counts) == 288 and len(space.counts) == 7
    points = cooking.every(space)
    size = {"size": cooking.bills_of(space)["size"]}
    return Joint(
        kit=k,
        space=space,
        known=dict(zip(points, scene(k, space).evaluator.losses(points), strict=True)),
        levels=cooking.levels_of(space, size, count=12),
        tables=tuple(signal(scene(k, space)) for signal in DELE.signals),
    )


def by_chance(j: Joint, trials: Trials, seed: int) -> Trials:
    """As many plans drawn evenly, and the smallest one, so that every level has a plan."""
    points = list(j.known)
    order = np.random.default_rng(seed).permutation(len(points))
    drawn = replace(trials, plans={}, evaluator=cooking.Replay(j.space, j.known))
    with pytest.raises(Spent):
        drawn.measure([max(points), *(points[i] for i in order)])
    return drawn


@pytest.mark.parametrize("recipe", [SIMQ_NAS, DELE], ids=lambda r: r.name)
def test_the_joint_front_of_depth_width_and_bits_is_nearly_the_exhaustive_one(
    recipe: Recipe, joint: Joint
) -> None:
    tables = joint.tables if recipe is DELE else ()  # the other does not look at them
    told = replace(recipe, signals=tuple(lambda scene, t=t: t for t in tables))
    found, drawn = [], []
    for seed in range(3):
        dish = cooking.cook(
            told, joint.scene(), levels=joint.levels, evaluations=MEASURED, seed=seed
        )
        assert len(dish.trials.plans) <= MEASURED
        found.append(excess(dish.trials, joint.known, joint.levels))
        drawn.append(excess(by_chance(joint, dish.trials, seed), joint.known, joint.levels))
    assert all(1 <= e <= 1.05 for e in found), found
    assert np.mean(found) < np.mean(drawn)


def test_with_few_labels_the_ensemble_ranks_all_plans_better_than_labels_alone(
    joint: Joint,
) -> None:
    counts, points = joint.space.counts, np.asarray(list(joint.known))
    truth = np.log([x.divergence for x in joint.known.values()])
    taus: dict[int, list[tuple[float, float]]] = {}
    for labels in (8, 32, 128):
        for seed in range(3):
            chosen = np.random.default_rng(seed).permutation(len(points))[:labels]
            trials = synthetic.trials(synthetic.truth(counts))
            trials.evaluator = cooking.Replay(joint.space, joint.known)
            trials.measure([tuple(p) for p in points[chosen].tolist()])
            start = taught(counts, joint.tables, width=32, seed=seed)
            own, plain = (
                float(kendalltau(predict(points), truth).statistic)
                for predict in (
                    tuned(start, trials, steps=60),
                    ridge(counts, points[chosen], truth[chosen]),
                )
            )
            taus.setdefault(labels, []).append((own, plain))
    means = {n: np.mean(t, axis=0) for n, t in taus.items()}
    assert means[8][0] > means[8][1] + 0.05, means
    assert means[128][0] >= means[8][0] - 0.02, means
