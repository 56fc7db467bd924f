"""Decoupled: bits of a sampler's weights by two integer programs, one per metric (MixDQ)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import numpy as np

from allot.errors import BudgetError
from allot.harm.displacement import mildest
from allot.judging.fidelity import ssim
from allot.recipes.recipe import Paper, Recipe
from allot.samplers.rolled import Rolled
from allot.solve.milp import solve
from allot.space import Point
from allot.table import Array, Table, Term
from allot.trials import Limits, Trials

BITOPS = "bitops"


def mixdq(
    trials: Trials,
    *,
    harm: Sequence[Table],
    seed: int,
    samples: int = 8,
    ratios: Sequence[float] = (0.8, 0.9, 1.0, 1.1, 1.25),
) -> None:
    """Bits of weights by two integer programs, one for layers of content and one for the rest.

    Content layers (cross-attention and feed-forward) are scored by structural similarity of the
    samples when they alone are cheap, all others by squared error; each group has its part of the
    budget, in several ratios, and the plan of least squared error is measured.  samples: of the
    search data.  harm: not looked at.
    """
    evaluator = cast(Rolled, trials.evaluator)
    data = evaluator.data.subset(slice(0, min(samples, len(evaluator.data))))
    mild = mildest(trials.space)
    weights = [i for i, c in enumerate(trials.space.choices) if c.options[0].kind == "weight"]
    base = evaluator.samples_of(mild, data)
    scores: dict[int, Array] = {}
    for k, i in enumerate(weights):
        content = of_content(trials.space.choices[i].site)
        found = np.zeros(trials.space.counts[i])
        for o in range(mild[i] + 1, trials.space.counts[i]):
            new = evaluator.samples_of(_with(mild, {i: o}), data)
            evaluator.charge(len(data) / evaluator.samples)
            found[o] = float(
                (1 - ssim(base, new)).mean() if content else (base - new).pow(2).mean()
            )
        scores[i] = found
        trials.progress((k + 1) / len(weights))
    for limits in trials.levels:
        points = [p for r in ratios for p in [_split(trials, mild, scores, limits, r)] if p]
        if points:
            seen = {p: evaluator.samples_of(p, data) for p in dict.fromkeys(points)}
            evaluator.charge(len(seen) * len(data) / evaluator.samples)
            trials.measure([min(seen, key=lambda p: float((seen[p] - base).pow(2).mean()))])


def of_content(site: str) -> bool:
    """Whether a layer says what is to be seen rather than how well, by its name."""
    return any(part in ("attn2", "ff") for part in site.split("."))


def _split(
    trials: Trials, mild: Point, scores: dict[int, Array], limits: Limits, ratio: float
) -> Point | None:
    """The plan whose content layers take `ratio` times their part of the budget; None without."""
    z, bill = mild, trials.bills[BITOPS]
    whole = bill.of(mild)
    groups = [[i for i in scores if of_content(_site(trials, i)) == c] for c in (True, False)]
    parts = [_saved(trials, mild, g) for g in groups]
    save = max(0.0, whole - limits[BITOPS])
    first = min(parts[0], save * parts[0] / max(sum(parts), 1e-300) / ratio)
    for group, wanted in zip(groups, (first, save - first), strict=True):
        try:
            z = _program(trials, z, group, scores, bill.of(z) - wanted)
        except BudgetError:
            return None
    return z if trials.fits(z, limits) else None


def _saved(trials: Trials, mild: Point, group: Sequence[int]) -> float:
    """BitOPs that the group saves at most."""
    least = _with(mild, {i: trials.space.counts[i] - 1 for i in group})
    return trials.bills[BITOPS].of(mild) - trials.bills[BITOPS].of(least)


def _program(
    trials: Trials, z: Point, group: Sequence[int], scores: dict[int, Array], limit: float
) -> Point:
    """The options of a group of least score within a limit; raises BudgetError."""
    bill = trials.bills[BITOPS]
    now = bill.of(z)
    counts = tuple(trials.space.counts[i] - z[i] for i in group)
    if not group:
        if now > limit * (1 + 1e-9):
            raise BudgetError("no layer is of this kind")
        return z
    costs, harms = [], []
    for k, i in enumerate(group):
        options = range(z[i], trials.space.counts[i])
        costs.append(
            Term(at=(k,), values=np.array([bill.of(_with(z, {i: o})) - now for o in options]))
        )
        harms.append(Term(at=(k,), values=scores[i][z[i] :]))
    shared = Table(unit="bitop", origin="", constant=now, terms=tuple(costs))
    found = solve(
        counts, harm=Table(unit="nat", origin="", terms=tuple(harms)), bills={BITOPS: shared},
        limits={BITOPS: limit * (1 + 1e-9)}, floor=False, nodes=20, gap=1e-2,
    )  # fmt: skip
    return _with(z, {i: z[i] + o for i, o in zip(group, found.point, strict=True)})


def _site(trials: Trials, i: int) -> str:
    return trials.space.choices[i].site


def _with(point: Point, options: dict[int, int]) -> Point:
    return tuple(options.get(i, o) for i, o in enumerate(point))


MIXDQ = Recipe(
    name="mixdq",
    row="A08",
    paper=Paper(
        authors="Zhao et al.",
        year=2024,
        title="MixDQ: Memory-Efficient Few-Step Text-to-Image Diffusion Models with "
        "Metric-Decoupled Mixed Precision Quantization",
    ),
    axes=("precision",),
    signals=(),
    searcher=mixdq,
    part="allocation of bits to weights",
    differs="the budget is on BitOPs, not on mean bits, and split in five ratios; several samples "
    "instead of one choose among them; the start token is `outlier tokens`' matter",
    oracle="the program against all plans of a small space",
)
