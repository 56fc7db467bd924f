"""Quantized: how near samples of quantized networks are to the original's, noise by noise.

Every convolution and linear is quantized, weights and what they read, the first and the last and
those of time among them: "float layers" counts those that are not.  Attention's products, norms and
the arithmetic of the sampler stay float.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from allot.families.diffusion import load
from allot.judging.fidelity import psnr, squared_error
from allot.judging.noises import NOISE, drawn
from allot.judging.resampled import estimate
from allot.num.activation_ranges import Shrink
from allot.num.rounding import Nearest
from allot.option import Option
from allot.options.precision import Weight
from allot.reconstruct.setting import Reconstruction
from allot.reconstruct.soft import FreeRounding
from allot.samplers import space
from allot.samplers.planned import Planned
from allot.samplers.quantizing import PLAIN, Along, network_quantized, tabled, through
from allot.sampling.features import Seeds
from allot.sampling.sampler import Sampler
from allot.scheme import Scheme
from benchmarks.diffusion.networks import BATCH, CLASSES, NETWORKS, SHAPE, STEPS
from benchmarks.figures import Figure, at_least, at_most, mean_interval
from benchmarks.tasks import zoo

LEAST_PSNR, HALF = 40.0, 0.5
RUNS, NOISES, QUICK_NOISES = 96, 1024, 128
LEARNING, QUICK_LEARNING = 300, 60
LEARNED = Reconstruction(rounding=FreeRounding(), learn_biases=True, steps=LEARNING)


def run(quick: bool, seed: int) -> dict[str, Figure]:
    """Both networks; a quick run takes the first one, fewer noises and steps of learning."""
    found: dict[str, Figure] = {}
    for name in NETWORKS[:1] if quick else NETWORKS:
        found |= dict(figures(name, quick=quick, seed=seed))
    return found


def figures(name: str, *, quick: bool, seed: int) -> Iterator[tuple[str, Figure]]:
    """The figures of one network, as they are found."""
    sampler = load(zoo() / "fmnist" / name, steps=STEPS)
    seeds = noises(RUNS, "calibrate", seed)
    test = noises(QUICK_NOISES if quick else NOISES, "certify", seed)
    original = samples(sampler, test)
    on = Along(seed=seed)
    for label, plan in eight_bit(sampler, seeds, on):
        errors = squared_error(original, samples(plan.sampler, test))
        low, high = mean_interval(errors)
        yield f"{name}: W8A8, {label}, PSNR in dB", at_least(
            psnr(float(errors.mean())), LEAST_PSNR, n=len(test), seeds=[seed],
            interval=(psnr(high), psnr(max(low, 1e-12))), **plan.found,
        )  # fmt: skip
    nearest = four_bit(sampler, seeds, on, learned=None)
    began = time.process_time()
    setting = replace(LEARNED, steps=QUICK_LEARNING if quick else LEARNING, samples=on.total)
    learned = four_bit(sampler, seeds, on, learned=setting)
    seconds = time.process_time() - began
    before, after = (squared_error(original, samples(p.sampler, test)) for p in (nearest, learned))
    ratio = estimate(
        lambda c: (c @ after) / (c @ before), len(test), seed=seed
    )  # fmt: skip
    yield f"{name}: W4A8, error of learned over nearest rounding", at_most(
        float(after.mean() / before.mean()), HALF, n=len(test), seeds=[seed],
        interval=ratio.interval, psnr={
            "nearest": psnr(float(before.mean())), "learned": psnr(float(after.mean())),
        },
        seconds=seconds, **learned.found,
    )  # fmt: skip


def eight_bit(sampler: Sampler, seeds: Seeds, on: Along) -> Iterator[tuple[str, Planned]]:
    """The network in 8 bits, with ranges found in three ways."""
    weight = Weight(bits=8)
    kinds: tuple[tuple[str, Option], ...] = (
        ("ranges of samples and tokens", space.live(8)),
        ("one fixed range", space.fixed(8)),
    )
    for label, tensors in kinds:
        scheme = Scheme(weight=weight, activation=tensors, recovery=PLAIN)
        yield label, through(sampler, seeds, scheme, along_runs=on)
    made = network_quantized(sampler, seeds, Scheme(weight=weight, recovery=PLAIN), along_runs=on)
    yield "a fixed range a step", tabled(sampler, seeds, made, made.standins, bits=8, rule=Shrink())


def four_bit(
    sampler: Sampler, seeds: Seeds, on: Along, *, learned: Reconstruction | None
) -> Planned:
    """Weights in 4 bits, tensors in 8 with live ranges; rounded to nearest, or learned by blocks
    from codes that make up for each other's errors."""
    weight = Weight(bits=4, rounding=Nearest()) if learned is None else Weight(bits=4)
    recovery = PLAIN if learned is None else replace(PLAIN, learning=learned)
    scheme = Scheme(weight=weight, activation=space.live(8), recovery=recovery)
    return through(sampler, seeds, scheme, along_runs=on)


def noises(n: int, purpose: str, seed: int) -> Seeds:
    """Noises of one purpose, classes in turn."""
    classes = {"class_labels": torch.arange(CLASSES)}
    inputs = drawn(n, SHAPE, purpose=purpose, seed=seed, conditions=classes).inputs
    assert isinstance(inputs, dict)
    return Seeds(noise=inputs[NOISE], conditions={k: v for k, v in inputs.items() if k != NOISE})


def samples(sampler: Sampler, seeds: Seeds) -> Tensor:
    """What a sampler makes of noises: [n, 1, 16, 16]."""
    with torch.no_grad():
        return torch.cat([sampler(s.noise, **s.conditions) for s in seeds.batches(BATCH)])
