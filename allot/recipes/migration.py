"""Migration: outliers moved from what layers read into the weights that read it."""

from __future__ import annotations

from allot.num.formats import Format, Int, UInt
from allot.num.rounding import Gptq, Nearest
from allot.num.token_wise import TokenWise
from allot.options.tensors import ActivationFormat
from allot.recipes.bits import Bits
from allot.recipes.offered import IN_ORDER, UNREPAIRED, integers, tensors
from allot.recipes.recipe import Paper, Recipe
from allot.rewrites.gamma_migration import MigrateGamma
from allot.rewrites.smoothing import ActivationAware, ShiftScale, Smooth
from allot.scheme import Scheme


def smoothquant(bits: Bits) -> Scheme:
    """Scales between activations and weights, one strength."""
    rewrite = Smooth(strengths=(0.5,), weight=_format(bits), activation=_grid(bits))
    weight = integers(bits, rounding=Nearest())
    return Scheme(rewrites=(rewrite,), weight=weight, activation=tensors(bits), recovery=UNREPAIRED)


def awq(bits: Bits) -> Scheme:
    """Channels that are read strongly scaled up before weights are rounded."""
    rewrite = ActivationAware(weight=_format(bits))
    weight = integers(bits, rounding=Nearest(), zeros=True)
    return Scheme(rewrites=(rewrite,), weight=weight, activation=tensors(bits), recovery=UNREPAIRED)


def outlier_suppression(bits: Bits) -> Scheme:
    """Gamma moved behind the norm, ranges found over tokens."""
    activation = tensors(bits)
    if not bits.floats and not bits.group:
        activation = ActivationFormat(grid=UInt(bits=bits.activation), ranges=TokenWise())
    weight = integers(bits, rounding=Nearest())
    return Scheme(
        rewrites=(MigrateGamma(),), weight=weight, activation=activation, recovery=UNREPAIRED
    )


def shift_and_scale(bits: Bits) -> Scheme:
    """Shifts and scales per channel, folded into what reads them."""
    rewrite = ShiftScale(weight=_format(bits), activation=_grid(bits))
    weight = integers(bits, rounding=Gptq())
    return Scheme(rewrites=(rewrite,), weight=weight, activation=tensors(bits), recovery=IN_ORDER)


def _format(bits: Bits) -> Format:
    return Format(grid=Int(bits=bits.weight), group=bits.group)


def _grid(bits: Bits) -> Int:
    return Int(bits=8 if bits.floats else bits.activation)


SMOOTHQUANT = Recipe(
    name="smoothquant",
    row="",
    paper=Paper(
        authors="Xiao et al.",
        year=2023,
        title="SmoothQuant: Accurate and Efficient Post-Training Quantization for Large Language "
        "Models",
    ),
    axes=("precision",),
    passes=smoothquant,
    differs="also between any layers where it can be folded, not behind norms alone",
    oracle="the float output is unchanged",
)
AWQ = Recipe(
    name="awq",
    row="",
    paper=Paper(
        authors="Lin et al.",
        year=2023,
        title="AWQ: Activation-aware Weight Quantization for On-Device LLM Compression and "
        "Acceleration",
    ),
    axes=("precision",),
    passes=awq,
    differs="clipping is the range's search by squared error",
    oracle="the float output is unchanged; strength 0 is among those tried",
)
OUTLIER_SUPPRESSION = Recipe(
    name="outlier-suppression",
    row="A19",
    paper=Paper(
        authors="Wei et al.",
        year=2022,
        title="Outlier Suppression: Pushing the Limit of Low-bit Transformer Language Models",
    ),
    axes=("precision",),
    passes=outlier_suppression,
    differs="the fine stage is a search over the clipping range",
    oracle="the float output is unchanged",
)
OS_PLUS = Recipe(
    name="outlier-suppression-plus",
    row="A20",
    paper=Paper(
        authors="Wei et al.",
        year=2023,
        title="Outlier Suppression+: Accurate Quantization of Large Language Models by Equivalent "
        "and Optimal Shifting and Scaling",
    ),
    axes=("precision",),
    passes=shift_and_scale,
    oracle="the float output is unchanged; shifts centre every channel",
)
