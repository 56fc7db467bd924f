"""Objectives: which loss ranks plans like the Frechet distance at noises that were not looked at?

`python -m benchmarks.diffusion.objectives` prints one table per network of the zoo.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from allot.judging.fidelity import squared_error
from allot.judging.frechet import distance, moments
from allot.judging.judge import Judge, read
from allot.judging.noises import drawn
from allot.judging.objective import WEIGHT, FrechetToOriginal
from allot.judging.trained import trained
from allot.samplers.task import Noises
from allot.sampling.sampler import Dropped, Sampler, Step, Way
from allot.sampling.spans import HOLD, Predictor, Span, Taylor
from allot.task import Data
from benchmarks.diffusion.judge import judge, real
from benchmarks.diffusion.networks import CLASSES, NETWORKS, SHAPE, STEPS, network

SEARCH, TEST, BATCH = 128, 512, 128
ODD, THIRDS = range(1, STEPS, 2), [i for i in range(STEPS) if i % 3]


@dataclass(frozen=True, kw_only=True)
class Made:
    """A plan by hand. bits: of all weights, rounded to nearest.  drop, reuse: steps."""

    bits: int | None = None
    drop: tuple[int, ...] = ()
    reuse: tuple[int, ...] = ()
    predictor: Predictor = HOLD


def plans() -> dict[str, Made]:
    """Plans of every kind and some of several, from hardly to badly damaged."""
    half, quarter = tuple(ODD), tuple(range(2, STEPS, 4))
    after, most = tuple(range(3, STEPS, 2)), tuple(i for i in range(STEPS) if i % 4)
    bits = {f"{b} bits": Made(bits=b) for b in (8, 6, 5, 4, 3)}
    return bits | {
        "half of the steps": Made(drop=half),
        "three quarters of the steps": Made(drop=quarter),
        "a third of the steps": Made(drop=tuple(THIRDS)),
        "few late steps": Made(drop=(13, 15, 17, 18)),
        "few early steps": Made(drop=tuple(range(1, 7))),
        "reuse half": Made(reuse=after),
        "reuse half, Taylor": Made(reuse=after, predictor=Taylor()),
        "reuse three quarters": Made(reuse=most),
        "reuse two thirds, Taylor": Made(reuse=tuple(THIRDS[2:]), predictor=Taylor()),
        "5 bits, three quarters of the steps": Made(bits=5, drop=quarter),
        "5 bits, half of the steps": Made(bits=5, drop=half),
        "4 bits, reuse half": Made(bits=4, reuse=after),
    }


def made(original: Sampler, plan: Made, span: Span) -> Sampler:
    """The sampler of a plan; the original stays as it is."""
    sampler = copy.deepcopy(original)
    if plan.bits is not None:
        round_(sampler.denoiser, plan.bits)
    for i in plan.drop:
        sampler.steps[i] = Dropped()
    for i in plan.reuse:
        sampler.steps[i] = Step(index=i, way=Way(reuse={span: plan.predictor}))
    return sampler


def round_(network: nn.Module, bits: int) -> None:
    """Weights of all linear layers and convolutions to the nearest of a symmetric grid per output
    channel, in place."""
    for layer in network.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            w = layer.weight.data.flatten(1)
            scale = w.abs().amax(1, keepdim=True).clamp(min=1e-9) / (2 ** (bits - 1) - 1)
            layer.weight.data = ((w / scale).round() * scale).view_as(layer.weight)


def samples(sampler: Sampler, data: Data) -> Tensor:
    with torch.no_grad():
        return torch.cat([sampler(**b) for b in data.batches(BATCH) if isinstance(b, dict)])


def compared(name: str, seed: int = 0) -> dict[str, dict[str, float]]:
    """Spearman's rank correlation of every objective at the search noises with the Frechet distance
    to the original at the test noises, as the zoo's judge and another one see it."""
    net = network(name, noises=Noises(calibrate=1, search=1, certify=1))
    span = max(net.spans, key=lambda s: len(s.modules))
    conditions = {"class_labels": torch.arange(CLASSES)}
    search, test = (
        drawn(n, SHAPE, purpose=p, seed=seed, conditions=conditions)
        for n, p in ((SEARCH, "search"), (TEST, "certify"))
    )
    was = [samples(net.sampler, d) for d in (search, test)]
    found: dict[str, list[float]] = {}
    judges = {"judge": judge(), "another judge": trained(real("calib"), seed=7, steps=600)[0]}
    for plan in plans().values():
        now = [samples(made(net.sampler, plan, span), d) for d in (search, test)]
        values = objectives(judges["judge"], was[0], now[0])
        values |= {k: frechet(j, was[1], now[1]) for k, j in judges.items()}
        for k, v in values.items():
            found.setdefault(k, []).append(v)
    return {
        k: {j: float(spearmanr(v, found[j]).statistic) for j in judges}
        for k, v in found.items()
        if k not in judges
    }


def objectives(judge: Judge, was: Tensor, now: Tensor) -> dict[str, float]:
    """What a search could minimize, of samples of the same noises."""
    a, b = read(judge, was).features, read(judge, now).features
    found = {
        "pixel error": float(squared_error(was, now).mean()),
        "feature error": float((b - a).pow(2).sum(1).mean()),
    }
    for weight in sorted({0.0, 0.03, WEIGHT, 0.3, 1.0}):
        divergence = FrechetToOriginal(judge=judge, weight=weight)
        found[f"Frechet + {weight:g} feature error"] = float(divergence(was, now).mean())
    return found


def frechet(judge: Judge, was: Tensor, now: Tensor) -> float:
    return float(distance(*(moments(read(judge, x).features) for x in (was, now))))


def main(names: Iterable[str] = NETWORKS) -> None:
    torch.set_num_threads(1)
    for name in names:
        print(f"{name}: {len(plans())} plans, {SEARCH} noises to rank, {TEST} others to judge")
        for objective, ranks in compared(name).items():
            print(f"  {objective:28s}", *(f"{j} {v:.3f}" for j, v in ranks.items()))


if __name__ == "__main__":
    main()
