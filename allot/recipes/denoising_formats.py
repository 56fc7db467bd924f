"""Denoising in other formats: floats, groups and smoothing of sampled networks, and step gains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from allot.bank import Bank
from allot.num.activation_ranges import Shrink
from allot.num.clipping import PNorm
from allot.num.format_search import FormatSearch
from allot.num.formats import Format, Int
from allot.num.live_ranges import AtRunTime
from allot.num.rounding import Nearest
from allot.options.formatted import Formatted
from allot.options.sharing import PerToken
from allot.options.tensors import ActivationFormat
from allot.recipes.bits import Bits
from allot.recipes.denoising import ADAROUND
from allot.recipes.floats import splits
from allot.recipes.recipe import Paper
from allot.recipes.sampled import SamplerRecipe
from allot.reconstruct.setting import Reconstruction
from allot.reconstruct.soft import SoftRounding
from allot.samplers.formats_sought import Given, best_formats
from allot.samplers.groups_sought import Quality, groups_sought
from allot.samplers.planned import Planned
from allot.samplers.quantizing import PLAIN, USUAL, Along, plan_of, through
from allot.samplers.smoothing import smoothed
from allot.samplers.step_gains import gains_searched, scaled
from allot.samplers.trajectory import along, visited
from allot.sampling.features import Seeds
from allot.sampling.sampler import Sampler
from allot.scheme import Quantized, Scheme, quantized
from allot.trace import trace


def vidit_q(
    sampler: Sampler,
    seeds: Seeds,
    *,
    names: Sequence[str] = (),
    bits: Bits = Bits(),  # noqa: B008 - frozen
    first: tuple[int, ...] = (),
    strength: float = 0.11,
    along_runs: Along = USUAL,
) -> Planned:
    """Linears smoothed by factors of ranges of steps, tokens with ranges of their own.

    names: modules that stay float, the paper's embedders, modulations and last layer.  first: the
    first step of every range but the first.
    """
    task = along(sampler, seeds, total=along_runs.total, seed=along_runs.seed)
    graph = trace(task.model, task.forward, task.example())

    def stays(module: str) -> bool:
        return any(module == n or module.startswith(f"{n}.") for n in names)

    sites = [s.name for s in graph.sites if s.kind == "activation" and not any(map(stays, s.reach))]
    options = smoothed(
        sampler.denoiser, graph, visited(sampler, seeds), sites=sites, bits=bits.weight,
        format=ActivationFormat(
            grid=Int(bits=bits.activation), sharing=PerToken(), ranges=AtRunTime()
        ),
        first=first, strength=strength,
    )  # fmt: skip
    bank = Bank(task.model, graph=graph, stats={})
    standins = bank.standins(options)
    made = Quantized(task=task, graph=graph, bank=bank, options=options, standins=standins)
    return plan_of(sampler, made, standins)


def q_dit(
    sampler: Sampler,
    seeds: Seeds,
    *,
    quality: Quality,
    bits: Bits = Bits(),  # noqa: B008
    sizes: Sequence[int] = (16, 32, 64, 128),
    mean: float = 64.0,
    along_runs: Along = USUAL,
) -> Planned:
    """Group sizes of all tensors and their weights by evolution on the quality of samples."""
    task = along(sampler, seeds, total=along_runs.total, seed=along_runs.seed)
    return groups_sought(
        sampler, seeds, task, quality=quality, sizes=sizes, mean=mean,
        bits=(bits.weight, bits.activation), seed=along_runs.seed,
    )  # fmt: skip


def fp4_dit(
    sampler: Sampler,
    seeds: Seeds,
    *,
    bits: Bits = Bits(),  # noqa: B008
    learning: Reconstruction = ADAROUND,
    along_runs: Along = USUAL,
) -> Planned:
    """Weights on a float grid, up or down by its local step; tokens with ranges of their own."""
    live = ActivationFormat(grid=Int(bits=bits.activation), sharing=PerToken(), ranges=AtRunTime())
    scheme = Scheme(
        weight=_floats(bits),
        activation=None if bits.floats else live,
        recovery=replace(PLAIN, learning=learning),
    )
    return through(sampler, seeds, scheme, along_runs=along_runs)


def low_bit_float(
    sampler: Sampler,
    seeds: Seeds,
    *,
    bits: Bits = Bits(),  # noqa: B008
    learning: Reconstruction = ADAROUND,
    along_runs: Along = USUAL,
) -> Planned:
    """The split of exponent and mantissa searched for every weight and tensor, rounding learned."""
    a = along_runs
    task = along(sampler, seeds, total=a.total, allocation=a.allocation, seed=a.seed)
    graph = trace(task.model, task.forward, task.example())
    sites = [s.name for s in graph.sites if s.kind == "activation" and not s.fixed]
    formats = (
        []
        if bits.floats
        else [ActivationFormat(grid=g, ranges=Shrink()) for g in splits(bits.activation)]
    )
    tensors = best_formats(task, graph, sites, formats) if formats else {}
    scheme = Scheme(
        weight=_floats(bits), activation=Given(options=tensors),
        recovery=replace(PLAIN, learning=learning),
    )  # fmt: skip
    made = quantized(task, scheme, seed=a.seed)
    return plan_of(sampler, made, made.standins)


def _floats(bits: Bits) -> Formatted:
    """A weight in floats of so many bits, its split searched."""
    grids = splits(bits.weight)
    return Formatted(
        name=f"FP{bits.weight}" + (f"g{bits.group}" if bits.group else ""),
        format=Format(grid=grids[0], group=bits.group),
        ranges=FormatSearch(grids=grids, inner=PNorm()),
        rounding=Nearest(),
    )


VIDIT_Q = SamplerRecipe(
    name="vidit-q",
    row="A09",
    paper=Paper(
        authors="Zhao et al.",
        year=2024,
        title="ViDiT-Q: Efficient and Accurate Quantization of Diffusion Transformers for Image "
        "and Video Generation",
    ),
    plan=vidit_q,
    parts=(along, visited, smoothed),
    part="the quantizer; bits of layers and steps are the search's own",
    differs="convolutions stay float; tensors are signed without a zero point; the largest "
    "magnitude is that of all evaluations in a range; every weight copy is charged",
    oracle="factors cancel in float; one range is static smoothing; bytes grow by a copy a range",
)
Q_DIT = SamplerRecipe(
    name="q-dit",
    row="A11",
    paper=Paper(
        authors="Chen et al.",
        year=2025,
        title="Q-DiT: Accurate Post-Training Quantization for Diffusion Transformers",
    ),
    plan=q_dit,
    parts=(along, groups_sought),
    differs="quality is whatever measure of samples is given, such as the Frechet distance to the "
    "original's; attention's products stay float; every choice is sampled once",
    oracle="never worse than the best uniform size that is allowed; with all choices tried, theirs",
)
FP4_DIT = SamplerRecipe(
    name="fp4-dit",
    row="A14",
    paper=Paper(
        authors="Chen et al.",
        year=2025,
        title="FP4DiT: Towards Effective Floating Point Quantization for Diffusion Transformers",
    ),
    plan=fp4_dit,
    parts=(along, FormatSearch, SoftRounding, Reconstruction, AtRunTime),
    differs="the split is searched for every matrix; a soft code starts near its own value",
    oracle="codes are of the grid, one step of it away from nearest at most; a block's error never "
    "above that of nearest rounding on the calibration data",
)
LOW_BIT_FLOAT = SamplerRecipe(
    name="low-bit-float",
    row="A15",
    paper=Paper(
        authors="Chen et al.",
        year=2024,
        title="Low-Bitwidth Floating Point Quantization for Efficient High-Quality Diffusion "
        "Models",
    ),
    plan=low_bit_float,
    parts=(along, FormatSearch, best_formats, SoftRounding, Reconstruction),
    differs="scales are of output channels of weights, and real where theirs is a bias of the "
    "exponent",
    oracle="the best of all splits by enumeration, for weights and tensors",
)
Q_SCHED = SamplerRecipe(
    name="q-sched",
    row="A27",
    paper=Paper(
        authors="Frumkin and Marculescu",
        year=2025,
        title="Q-Sched: Pushing the Boundaries of Few-Step Diffusion Models with "
        "Quantization-Aware Scheduling",
    ),
    plan=gains_searched,
    parts=(gains_searched, scaled),
    differs="the score is given; without one it is the error to the original's samples of the same "
    "noise, for want of a text to be true to",
    oracle="brute force over the square of factors; 1 and 1 are among them and leave all as it was",
)
