"""Removal: spans of a sampler's network left out at all steps, the least harm per cost first."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from allot.errors import InputError
from allot.recipes.recipe import Paper
from allot.recipes.sampled import SamplerRecipe
from allot.samplers.planned import Planned, planned
from allot.sampling.features import Seeds
from allot.sampling.sampler import Sampler, Step, Way
from allot.sampling.spans import NOTHING, Span


@dataclass(frozen=True, kw_only=True)
class Scored:
    """A span that can be left out at all steps: what that harms, and what it saves."""

    span: Span
    harm: float
    saved: float

    @property
    def value(self) -> float:
        """Harm per unit saved; the least goes first."""
        return self.harm / self.saved if self.saved > 0 else math.inf


def block_scores(
    sampler: Sampler,
    seeds: Seeds,
    *,
    spans: Sequence[Span],
    costs: Sequence[float],
    look: Callable[[Tensor], Tensor] = lambda samples: samples.flatten(1),
) -> list[Scored]:
    """Every span alone left out at all steps: squared change of what is looked at, and its cost.

    costs: of the spans, in seconds or multiplications.  look: samples [n, ...] -> [n, d].
    """
    with torch.no_grad():
        whole = look(sampler(seeds.noise, **seeds.conditions))
        found = []
        for span, cost in zip(spans, costs, strict=True):
            cut = without(sampler, [span]).sampler
            apart = look(cut(seeds.noise, **seeds.conditions)) - whole
            harm = float(apart.double().pow(2).sum(1).mean())
            found.append(Scored(span=span, harm=harm, saved=cost))
    return sorted(found, key=lambda s: s.value)


def blocks_removed(
    sampler: Sampler,
    seeds: Seeds,
    *,
    spans: Sequence[Span],
    costs: Sequence[float],
    share: float,
    look: Callable[[Tensor], Tensor] = lambda samples: samples.flatten(1),
) -> Planned:
    """Spans left out at all steps, the least harm per cost first, until a share of cost is saved.

    Scores are taken anew after every removal.  Raises InputError for a share that all spans
    together do not come to.
    """
    if not 0 <= share <= 1:
        raise InputError(f"a share between 0 and 1 of the spans' cost can be saved, not {share:g}")
    left, gone, saved = dict(zip(spans, costs, strict=True)), list[Span](), 0.0
    plan = without(sampler, gone)
    while left and saved < share * sum(costs) * (1 - 1e-9):
        scored = block_scores(
            plan.sampler, seeds, spans=list(left), costs=list(left.values()), look=look
        )
        gone.append(scored[0].span)
        saved += left.pop(scored[0].span)
        plan = without(sampler, gone)
    return Planned(
        sampler=plan.sampler, standins=plan.standins, found={"saved": saved / sum(costs)}
    )


def without(sampler: Sampler, spans: Sequence[Span]) -> Planned:
    """The sampler with residual spans left out at every step, beside those that it leaves out."""
    steps = {}
    for i, step in enumerate(sampler.steps):
        have = step.way.reuse if isinstance(step, Step) else {}
        way = Way(reuse={**have, **dict.fromkeys(spans, NOTHING)})
        steps[f"steps.{i}"] = Step(index=i, way=way)
    return planned(sampler, steps)


SNAPFUSION = SamplerRecipe(
    name="snapfusion",
    row="A83",
    paper=Paper(
        authors="Li et al.",
        year=2023,
        title="SnapFusion: Text-to-Image Diffusion Model on Mobile Devices within Two Seconds",
    ),
    plan=blocks_removed,
    parts=(block_scores, without),
    part="scoring of blocks by quality per latency",
    differs="no training makes the network robust to missing blocks first; quality is the squared "
    "change of samples from the same noises",
    oracle="brute force over sets of two blocks where harms add",
)
