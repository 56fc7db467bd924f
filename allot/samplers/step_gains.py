"""Step gains: two factors of every step, of what enters the network and of what it gives."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from allot.errors import InputError
from allot.judging.fidelity import squared_error
from allot.samplers.planned import Planned, planned
from allot.sampling.features import Seeds
from allot.sampling.sampler import Sampler, Step

# (original samples, samples) -> a number per sample [n] that is to be small
Score = Callable[[Tensor, Tensor], Tensor]


def ramp(begin: float, step: int, steps: int) -> float:
    """From `begin` at the first step to 1 at the last, linearly."""
    return begin if steps == 1 else begin + (1 - begin) * step / (steps - 1)


def scaled(sampler: Sampler, *, gain_x: float, gain_out: float) -> Planned:
    """The sampler with both factors falling or rising to 1 along its steps, its ways else kept."""
    n, new = len(sampler.grid), {}
    for i, step in enumerate(sampler.steps):
        if isinstance(step, Step):
            way = replace(step.way, gain_x=ramp(gain_x, i, n), gain_out=ramp(gain_out, i, n))
            new[f"steps.{i}"] = Step(index=i, way=way)
    return planned(sampler, new, {"gain of x": gain_x, "gain of the output": gain_out})


def gains_searched(
    sampler: Sampler,
    seeds: Seeds,
    *,
    original: Sampler,
    score: Score = squared_error,
    reach: float = 0.02,
    points: int = 5,
) -> Planned:
    """The pair of factors of least mean score on the seeds, of a square of points around 1.

    sampler: the compressed one.  reach: the farthest from 1.  points: along each side, an odd
    number, so that 1 is among them and the answer is never worse there than none.  Weights stay as
    they are (Q-Sched, Frumkin and Marculescu 2025).  Raises InputError for an even number.
    """
    if points < 1 or points % 2 == 0:
        raise InputError(f"{points} points hold no middle; give an odd number")
    tries = [1 + reach * (2 * i / max(1, points - 1) - 1) for i in range(points)]
    if points == 1:
        tries = [1.0]
    tries[points // 2] = 1.0
    best: Planned | None = None
    least = float("inf")
    with torch.no_grad():
        wanted = original(seeds.noise, **seeds.conditions)
        for gain_x in sorted(tries, key=lambda t: abs(t - 1)):
            for gain_out in sorted(tries, key=lambda t: abs(t - 1)):
                plan = scaled(sampler, gain_x=gain_x, gain_out=gain_out)
                got = plan.sampler(seeds.noise, **seeds.conditions)
                value = float(score(wanted, got).mean())
                if value < least:
                    best, least = plan, value
    assert best is not None
    return replace(best, found={**best.found, "score": least})
