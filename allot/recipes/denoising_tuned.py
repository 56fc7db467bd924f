"""Denoising, tuned: networks of samplers whose quantized weights are learned on their output."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from allot.num.rounding import Nearest
from allot.recipes.bits import Bits
from allot.recipes.denoising import ADAROUND, NORM, STEPS
from allot.recipes.offered import integers
from allot.recipes.recipe import Paper
from allot.recipes.sampled import SamplerRecipe
from allot.reconstruct.losses import FinalKL
from allot.reconstruct.low_rank import LowRankRounding
from allot.reconstruct.reconstruct import reconstructed
from allot.reconstruct.setting import Reconstruction
from allot.reconstruct.soft import FreeRounding
from allot.reconstruct.units import Named
from allot.samplers.folded_time import CLASS
from allot.samplers.planned import Planned
from allot.samplers.quantizing import PLAIN, USUAL, Along, tabled, with_time
from allot.samplers.ranges import step_tables
from allot.samplers.time_block import time_quantized
from allot.samplers.trajectory import along
from allot.sampling.features import Seeds
from allot.sampling.sampler import Sampler
from allot.scheme import Scheme, quantized


def quest(
    sampler: Sampler,
    seeds: Seeds,
    *,
    names: Sequence[str],
    ends: Sequence[str] = ("to_q", "to_k", "to_v"),
    bits: Bits = Bits(),  # noqa: B008
    learning: Reconstruction = ADAROUND,
    tuned: int = STEPS,
    along_runs: Along = USUAL,
    by: str = CLASS,
) -> Planned:
    """Learned blocks, then two groups of weights tuned: of time, and those of attention.

    names: modules of time.  ends: how names of the other layers end.  tuned: steps of the latter.
    """
    made, weights = with_time(
        sampler, seeds, names, weight=integers(bits, rounding=Nearest()), learning=learning,
        along_runs=along_runs, by=by,
    )  # fmt: skip
    layers = tuple(x.module for x in made.graph.layers if x.module.endswith(tuple(ends)))
    setting = replace(
        learning, unit=Named(units=(layers,)), loss=FinalKL(), rounding=FreeRounding(), steps=tuned
    )
    weights = reconstructed(
        made.bank, made.task, made.options, standins=weights, setting=setting, seed=along_runs.seed
    )
    return tabled(
        sampler, seeds, made, weights, bits=None if bits.floats else bits.activation, rule=NORM
    )


def efficient_dm(
    sampler: Sampler,
    seeds: Seeds,
    *,
    bits: Bits = Bits(),  # noqa: B008
    rank: int = 32,
    steps: int = STEPS,
    along_runs: Along = USUAL,
) -> Planned:
    """Low-rank changes of all weights, inside their quantizers, learned on the network's output
    along its own runs; ranges for every step."""
    learning = Reconstruction(loss=FinalKL(), rounding=LowRankRounding(rank=rank), steps=steps)
    a = along_runs
    task = along(sampler, seeds, total=a.total, allocation=a.allocation, seed=a.seed)
    weight = integers(bits, rounding=Nearest())
    made = quantized(task, Scheme(weight=weight, recovery=PLAIN), seed=a.seed)
    layers = tuple(x.module for x in made.graph.layers)
    weights = reconstructed(
        made.bank, task, made.options, setting=replace(learning, unit=Named(units=(layers,))),
        seed=a.seed,
    )  # fmt: skip
    return tabled(
        sampler, seeds, made, weights, bits=None if bits.floats else bits.activation, rule=NORM
    )


QUEST = SamplerRecipe(
    name="quest",
    row="A28",
    paper=Paper(
        authors="Wang et al.",
        year=2025,
        title="QuEST: Low-bit Diffusion Model Quantization via Efficient Selective Finetuning",
    ),
    plan=quest,
    parts=(along, time_quantized, reconstructed, FinalKL, FreeRounding, step_tables),
    differs="ranges are found after tuning, not tuned; the layers of attention are tuned over all "
    "steps at once",
    oracle="only the named layers change in tuning, and the output's error does not grow",
)
EFFICIENT_DM = SamplerRecipe(
    name="efficient-dm",
    row="A29",
    paper=Paper(
        authors="He et al.",
        year=2024,
        title="EfficientDM: Efficient Quantization-Aware Fine-Tuning of Low-Bit Diffusion Models",
    ),
    plan=efficient_dm,
    parts=(along, LowRankRounding, reconstructed, FinalKL, step_tables),
    differs="learned on mixed steps of the original's runs; ranges of steps are found after "
    "learning, not learned; first and last layer have the bits of all others",
    oracle="nothing of the adapters is left: codes and scales alone, on the frozen grid; the "
    "output's error does not grow",
)
