"""Denoising: published ways to quantize the network of a sampler.

Each is a function from a sampler and noises to the same sampler, planned: (sampler, seeds, bits,
what else it asks for).  Layers that the papers leave in float are quantized too where it is not
said otherwise; `Planned.found` counts those that stay.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from allot.num.activation_ranges import Shrink
from allot.num.formats import UInt
from allot.num.rounding import Nearest
from allot.option import Option
from allot.options.tensors import ActivationFormat
from allot.recipes.bits import Bits
from allot.recipes.offered import integers
from allot.recipes.recipe import Paper
from allot.recipes.sampled import SamplerRecipe
from allot.reconstruct.losses import InnerOutput, OutputMSE
from allot.reconstruct.setting import Reconstruction
from allot.reconstruct.soft import SoftRounding
from allot.rewrites.concat_split import SplitConcats, joins
from allot.samplers.folded_time import CLASS
from allot.samplers.planned import Planned
from allot.samplers.quantizing import PLAIN, USUAL, Along, tabled, through, with_time
from allot.samplers.ranges import step_tables
from allot.samplers.time_block import time_quantized
from allot.samplers.trajectory import along
from allot.sampling.allocation import DenseAndVaried, Strided
from allot.sampling.features import Seeds
from allot.sampling.sampler import Sampler
from allot.scheme import Scheme

STEPS = 300
# the norm that these papers search ranges in
NORM = Shrink(power=2.4)
ADAROUND = Reconstruction(loss=OutputMSE(), rounding=SoftRounding(), steps=STEPS)
SPACED = Along(allocation=Strided(every=1))


def q_diffusion(
    sampler: Sampler,
    seeds: Seeds,
    *,
    bits: Bits = Bits(),  # noqa: B008 - frozen
    learning: Reconstruction = ADAROUND,
    along_runs: Along = SPACED,
) -> Planned:
    """Inputs of evenly spaced steps, layers behind concatenations in parts, blocks learned."""
    a = along_runs
    task = along(sampler, seeds, total=a.total, allocation=a.allocation, seed=a.seed)
    rewrites = (SplitConcats(),) if joins(task) else ()
    scheme = Scheme(
        rewrites=rewrites, weight=integers(bits, rounding=Nearest()), activation=_static(bits),
        recovery=replace(PLAIN, learning=learning),
    )  # fmt: skip
    return through(sampler, seeds, scheme, along_runs=along_runs)


def tfmq_dm(
    sampler: Sampler,
    seeds: Seeds,
    *,
    names: Sequence[str],
    bits: Bits = Bits(),  # noqa: B008
    learning: Reconstruction = ADAROUND,
    along_runs: Along = USUAL,
    by: str = CLASS,
) -> Planned:
    """What depends on time alone learned as one unit, all else by blocks, ranges for every step.

    names: of the modules that depend on time (and class, the condition `by`) alone.
    """
    made, weights = with_time(
        sampler, seeds, names, weight=integers(bits, rounding=Nearest()), learning=learning,
        along_runs=along_runs, by=by,
    )  # fmt: skip
    return tabled(
        sampler, seeds, made, weights, bits=None if bits.floats else bits.activation, rule=NORM
    )


def eda_dm(
    sampler: Sampler,
    seeds: Seeds,
    *,
    middle: str,
    bits: Bits = Bits(),  # noqa: B008
    weight: float = 1.2,
    share: float = 0.8,
    steps: int = STEPS,
    along_runs: Along = USUAL,
) -> Planned:
    """More inputs of dense and of varied steps; blocks and the layers in them learned together.

    middle: module whose output tells steps apart.  weight: of variety; share: of inner layers.
    """
    learning = replace(
        ADAROUND, loss=InnerOutput(share=share), rounding=SoftRounding(pull=0.0), steps=steps
    )
    rule = DenseAndVaried(module=middle, weight=weight)
    scheme = Scheme(
        weight=integers(bits, rounding=Nearest()), activation=_static(bits),
        recovery=replace(PLAIN, learning=learning),
    )  # fmt: skip
    return through(sampler, seeds, scheme, along_runs=replace(along_runs, allocation=rule))


def _static(bits: Bits) -> Option | None:
    """One range for the tensor, searched in the papers' norm."""
    if bits.floats:
        return None
    return ActivationFormat(grid=UInt(bits=bits.activation), ranges=NORM)


Q_DIFFUSION = SamplerRecipe(
    name="q-diffusion",
    row="A23",
    paper=Paper(authors="Li et al.", year=2023, title="Q-Diffusion: Quantizing Diffusion Models"),
    plan=q_diffusion,
    parts=(along, Strided, SplitConcats, Shrink, SoftRounding, Reconstruction),
    differs="every step is taken by default; the scale of a weight is of least squared error; "
    "steps of tensors are learned with the codes, not after them; no layer stays float",
    oracle="the split network computes what the original does; codes never worse than nearest "
    "rounding in a block's error on the calibration data",
)
TFMQ_DM = SamplerRecipe(
    name="tfmq-dm",
    row="A24",
    paper=Paper(
        authors="Huang et al.",
        year=2024,
        title="TFMQ-DM: Temporal Feature Maintenance Quantization for Diffusion Models",
    ),
    plan=tfmq_dm,
    parts=(along, time_quantized, step_tables, Reconstruction),
    differs="a range for every step, not for groups of steps, found along runs with the quantized "
    "weights; outputs of the time block count relative to their size; no layer stays float",
    oracle="all steps and classes are the time block's data; each range is what the rule finds on "
    "its step alone",
)
EDA_DM = SamplerRecipe(
    name="eda-dm",
    row="A25",
    paper=Paper(
        authors="Liu et al.",
        year=2024,
        title="Enhanced Distribution Alignment for Post-Training Quantization of Diffusion Models",
    ),
    plan=eda_dm,
    parts=(along, DenseAndVaried, InnerOutput, SoftRounding, Reconstruction),
    differs="the radius of density is relative to the median distance of steps; errors of inner "
    "layers are relative, and meant",
    oracle="density and variety of given features by hand; counts that sum to the total",
)
