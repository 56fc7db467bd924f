"""CacheQuant at a budget: a quantized network, a planned cache, and corrections of both."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from allot.options.steps import Reuse
from allot.samplers.policies import segmented
from allot.sampling.features import Seeds
from allot.sampling.sampler import Sampler, Step
from allot.sampling.spans import Hold, Span
from allot.space import Point
from allot.table import Array
from allot.task import Data, call
from benchmarks.diffusion.searched import Searched

# noises that corrections are fitted on, and those that choose among spans and bits
SEEDS, CHOOSE = 32, 64


def cachequant(s: Searched, share: float) -> Iterator[tuple[Point, Array]]:
    """The best plan of a budget, as the point that it costs the same as, and the judge's features
    of its samples at the certify noises; nothing where the budget is out of reach.

    Weights all in 8 or all in 4 bits, tensors in 8, any span, each at the shortest interval that
    fits; which of these is chosen on the search noises.
    """
    task, choose = s.network.task, s.network.task.search.subset(slice(0, CHOOSE))
    original = _samples(s.network.sampler, choose)
    found: list[tuple[float, Point, Sampler]] = []
    for cheap in (False, True):
        for span in s.network.spans:
            fits = _fitting(s, span, share, cheap=cheap)
            if fits is None:
                continue
            point, interval = fits
            planned = _planned(s, span, interval, cheap=cheap)
            lost = task.divergence(original, _samples(planned, choose)).mean()
            found.append((float(lost), point, planned))
    if found:
        _, point, planned = min(found, key=lambda f: f[0])
        key = f"cachequant/{share}/{'.'.join(map(str, point))}"
        yield point, s.of_samples(key, lambda: _samples(planned, task.certify))


def _fitting(s: Searched, span: Span, share: float, *, cheap: bool) -> tuple[Point, int] | None:
    """What the shortest interval within the budget costs, as a point, and the interval."""
    steps = s.harm.steps
    for interval in range(1, len(steps) + 1):
        point = list(_bits(s, cheap=cheap))
        for k, i in enumerate(steps):
            if k % interval:
                point[i] = _again(s, i, span)
        if s.trials.fits(tuple(point), {"bitops": share * s.eight}):
            return tuple(point), interval
    return None


def _bits(s: Searched, *, cheap: bool) -> Point:
    counts = s.network.space.counts
    return tuple(
        counts[i] - 1 if cheap and c.options[0].kind == "weight" else m
        for i, (c, m) in enumerate(zip(s.network.space.choices, s.harm.mild, strict=True))
    )


def _again(s: Searched, choice: int, span: Span) -> int:
    """The option of a step that holds a span."""
    options = s.network.space.choices[choice].options
    return next(
        k for k, o in enumerate(options)
        if isinstance(o, Reuse) and o.spans == (span,) and isinstance(o.predictor, Hold)
    )  # fmt: skip


def _planned(s: Searched, span: Span, interval: int, *, cheap: bool) -> Sampler:
    """The quantized sampler with its segments and corrections, every step in 8 bits."""
    inputs = s.network.task.calibrate.subset(slice(0, SEEDS)).inputs
    assert isinstance(inputs, dict)
    conditions = {k: v for k, v in inputs.items() if k != "noise"}
    seeds = Seeds(noise=inputs["noise"], conditions=conditions)
    bank = s.network.bank
    options = s.network.space.options(_bits(s, cheap=cheap))
    quantized = bank.copy(bank.standins(options))
    assert isinstance(quantized, Sampler)
    plan = segmented(
        s.network.sampler, seeds, span=span, interval=interval, quantized=quantized
    ).sampler
    for i, step in enumerate(plan.steps):
        assert isinstance(step, Step)
        plan.steps[i] = Step(index=i, way=replace(step.way, bits=8))
    return plan


def _samples(sampler: Sampler, data: Data) -> Tensor:
    with torch.no_grad():
        return torch.cat([call(sampler, batch) for batch in data.batches(CHOOSE)])
