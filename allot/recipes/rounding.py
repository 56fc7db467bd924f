"""Rounding: weights stored in few bits, each code chosen by what it does to the layer's output."""

from __future__ import annotations

from dataclasses import replace

from allot.num.adaround import AdaRound
from allot.num.clipping import Hqq, PNorm
from allot.num.format_search import ExponentSearch
from allot.num.formats import Format
from allot.num.freecodes import FreeCodes
from allot.num.powers import Power
from allot.num.rounding import Gptq, Nearest
from allot.options.formatted import Formatted
from allot.recipes.bits import Bits
from allot.recipes.offered import IN_ORDER, MATCHED, UNREPAIRED, integers, tensors
from allot.recipes.recipe import Paper, Recipe
from allot.reconstruct.walk import Discrepancy
from allot.scheme import Scheme

WALKED = replace(IN_ORDER, learning=Discrepancy())


def gptq(bits: Bits) -> Scheme:
    """Second-order rounding, every layer for the inputs that the rounded ones before it give."""
    weight = integers(bits, rounding=Gptq())
    return Scheme(weight=weight, activation=tensors(bits), recovery=IN_ORDER)


def hqq(bits: Bits) -> Scheme:
    """Zero points by half-quadratic splitting, nearest rounding, no data."""
    weight = integers(bits, ranges=Hqq(), rounding=Nearest(), zeros=True)
    return Scheme(weight=weight, activation=tensors(bits), recovery=UNREPAIRED)


def nupes(bits: Bits) -> Scheme:
    """A power grid fitted to every matrix, codes free to move over all of it."""
    weight = Formatted(
        name=f"P{bits.weight}" + (f"g{bits.group}" if bits.group else ""),
        format=Format(grid=Power(bits=bits.weight, exponent=1.0), group=bits.group),
        ranges=ExponentSearch(inner=PNorm()),
        rounding=FreeCodes(),
    )
    return Scheme(weight=weight, activation=tensors(bits), recovery=UNREPAIRED)


def adaround(bits: Bits) -> Scheme:
    """Every weight up or down, learned layer by layer."""
    weight = integers(bits, rounding=AdaRound())
    return Scheme(weight=weight, activation=tensors(bits), recovery=MATCHED)


def discquant(bits: Bits) -> Scheme:
    """Every weight up or down, all of the network by one walk that begins near GPTQ's codes."""
    weight = integers(bits, rounding=Gptq())
    return Scheme(weight=weight, activation=tensors(bits), recovery=WALKED)


GPTQ = Recipe(
    name="gptq",
    row="",
    paper=Paper(
        authors="Frantar et al.",
        year=2022,
        title="GPTQ: Accurate Post-Training Quantization for Generative Pre-trained Transformers",
    ),
    axes=("precision",),
    passes=gptq,
    differs="columns go by falling curvature and scales of groups are found before any column is "
    "rounded; scales are shrunk by squared error",
    oracle="never above nearest rounding in summed output error on the calibration data",
)
HQQ = Recipe(
    name="hqq",
    row="",
    paper=Paper(
        authors="Badri and Shaji",
        year=2023,
        title="Half-Quadratic Quantization of Large Machine Learning Models",
    ),
    axes=("precision",),
    passes=hqq,
    differs="zero points are whole numbers of the grid, as they are stored",
    oracle="scales and zero points do not depend on the calibration data",
)
NUPES = Recipe(
    name="nupes",
    row="A04",
    paper=Paper(
        authors="Yvinec et al.",
        year=2023,
        title="NUPES: Non-Uniform Post-Training Quantization via Power Exponent Search",
    ),
    axes=("precision",),
    passes=nupes,
    differs="the exponent is found by search, not by gradient; codes descend on the layer's output "
    "error exactly, one after the other",
    oracle="squared error never above that of the uniform grid, which is exponent 1",
)
ADAROUND = Recipe(
    name="adaround",
    row="",
    paper=Paper(
        authors="Nagel et al.",
        year=2020,
        title="Up or Down? Adaptive Rounding for Post-Training Quantization",
    ),
    axes=("precision",),
    passes=adaround,
    differs="the layer's output error is taken from the second moment of its inputs, without the "
    "activation function behind it; statistics are matched afterwards",
    oracle="brute force over all roundings of 12 weights",
)
DISCQUANT = Recipe(
    name="discquant",
    row="A03",
    paper=Paper(
        authors="Chee et al.",
        year=2025,
        title="DiscQuant: A Quantization Method for Neural Networks Inspired by Discrepancy Theory",
    ),
    axes=("precision",),
    passes=discquant,
    differs="the two values of a weight are its GPTQ code and the next towards the original "
    "weight, and the walk begins between these, not at a random point; the push grows in eight "
    "rounds; codes that lose more on the calibration data are thrown away",
    oracle="a vertex of the linear program leaves at most as many weights between as there are "
    "samples; never above GPTQ in divergence on the calibration data",
)
