"""Timesteps: steps of a sampler and bits of its weights by evolution (TMPQ-DM)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from allot.harm.displacement import mildest
from allot.options.steps import Drop, StepOption
from allot.recipes.recipe import Paper, Recipe
from allot.space import Point, Space
from allot.table import Table
from allot.trials import Limits, Trials

# steps that share a count of kept ones; chance of a change
_GROUPS, _CHANGE = 4, 0.1


@dataclass(frozen=True, kw_only=True)
class Code:
    """kept: how many steps every group keeps, spread evenly.  weights: option of every weight."""

    kept: tuple[int, ...]
    weights: tuple[int, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Coded:
    """What codes stand for in a space: all other choices in the most bits below float."""

    space: Space
    mild: Point

    @property
    def weights(self) -> list[int]:
        return [i for i, c in enumerate(self.space.choices) if c.options[0].kind == "weight"]

    @property
    def groups(self) -> list[list[int]]:
        """Choices of steps, in groups that follow one another."""
        kinds = enumerate(self.space.choices)
        steps = [i for i, c in kinds if isinstance(c.options[0], StepOption)]
        return [list(map(int, g)) for g in np.array_split(steps, _GROUPS) if len(g)]

    def point(self, code: Code) -> Point:
        z = list(self.mild)
        for i, o in zip(self.weights, code.weights, strict=True):
            z[i] = o
        for group, count in zip(self.groups, code.kept, strict=True):
            kept = {group[int(k)] for k in np.linspace(0, len(group), count, endpoint=False)}
            for i in group:
                drops = [
                    o for o, x in enumerate(self.space.choices[i].options) if isinstance(x, Drop)
                ]
                if i not in kept and drops:
                    z[i] = drops[0]
        return tuple(z)


def tmpq(
    trials: Trials,
    *,
    harm: Sequence[Table],
    seed: int,
    population: int = 12,
    generations: int = 5,
    share: float = 0.25,
) -> None:
    """Evolution over how many steps every group keeps and the bits of every weight, per level.

    Weights of all widths are calibrated once, so that every code can be measured as it is.  share:
    of the search data, that codes are compared on.  harm: not looked at.
    """
    for k, limits in enumerate(trials.levels):
        g = np.random.default_rng([seed, k])
        coded = Coded(space=trials.space, mild=mildest(trials.space))
        codes = [c for c in (_random(coded, trials, limits, g) for _ in range(population)) if c]
        known: dict[Point, float] = {}
        for generation in range(generations):
            fresh = list(dict.fromkeys(coded.point(c) for c in codes))
            fresh = [p for p in fresh if p not in known]
            losses = trials.screen(fresh, share=share)
            known |= {p: x.divergence for p, x in zip(fresh, losses, strict=True)}
            best = sorted(codes, key=lambda c: known[coded.point(c)])[: max(2, population // 3)]
            trials.progress((k + generation / generations) / len(trials.levels))
            children = [_child(coded, best, trials, limits, g) for _ in range(population // 2)]
            codes = [*best, *(c for c in children if c)]
        if known:
            trials.measure([min(known, key=lambda p: known[p])])


def _random(coded: Coded, trials: Trials, limits: Limits, g: np.random.Generator) -> Code | None:
    code = Code(
        kept=tuple(int(g.integers(1, len(group) + 1)) for group in coded.groups),
        weights=tuple(
            int(g.integers(coded.mild[i], trials.space.counts[i])) for i in coded.weights
        ),
    )
    return _repaired(coded, code, trials, limits, g)


def _child(
    coded: Coded, parents: Sequence[Code], trials: Trials, limits: Limits, g: np.random.Generator
) -> Code | None:
    """Two parents mixed, and every gene changed by chance."""
    if not parents:
        return None
    a, b = (parents[int(g.integers(len(parents)))] for _ in range(2))
    kept = [x if g.random() < 0.5 else y for x, y in zip(a.kept, b.kept, strict=True)]
    weights = [x if g.random() < 0.5 else y for x, y in zip(a.weights, b.weights, strict=True)]
    for k, group in enumerate(coded.groups):
        if g.random() < _CHANGE:
            kept[k] = int(g.integers(1, len(group) + 1))
    for k, i in enumerate(coded.weights):
        if g.random() < _CHANGE:
            weights[k] = int(g.integers(coded.mild[i], trials.space.counts[i]))
    code = Code(kept=tuple(kept), weights=tuple(weights))
    return _repaired(coded, code, trials, limits, g)


def _repaired(
    coded: Coded, code: Code, trials: Trials, limits: Limits, g: np.random.Generator
) -> Code | None:
    """The code with steps left out or weights made cheaper by chance; None if none fits."""
    kept, weights = list(code.kept), list(code.weights)
    last = [trials.space.counts[i] - 1 for i in coded.weights]
    while True:
        found = Code(kept=tuple(kept), weights=tuple(weights))
        if trials.fits(coded.point(found), limits):
            return found
        fewer = [k for k, n in enumerate(kept) if n > 1]
        cheaper = [k for k, o in enumerate(weights) if o < last[k]]
        if not fewer and not cheaper:
            return None
        if cheaper and (not fewer or g.random() < 0.5):
            # a tenth at once, for one weight hardly matters
            for k in g.permutation(cheaper)[: max(1, len(weights) // 10)]:
                weights[int(k)] += 1
        else:
            kept[fewer[int(g.integers(len(fewer)))]] -= 1


TMPQ_DM = Recipe(
    name="tmpq-dm",
    row="A31",
    paper=Paper(
        authors="Sun et al.",
        year=2024,
        title="TMPQ-DM: Joint Timestep Reduction and Quantization Precision Selection for "
        "Efficient Diffusion Models",
    ),
    axes=("precision", "steps"),
    signals=(),
    searcher=tmpq,
    differs="fitness is the objective of the search on a quarter of its noises; the abstract does "
    "not give sizes of population and groups",
    oracle="all codes of a small space; a code's plan keeps what it says",
)
