"""Baseline: 8 bits for everything, as integer kernels take them, without a search."""

from __future__ import annotations

from allot.num.activation_ranges import MinMax
from allot.num.formats import UInt
from allot.num.rounding import Nearest
from allot.options.tensors import ActivationFormat
from allot.recipes.bits import Bits
from allot.recipes.offered import UNREPAIRED, integers
from allot.recipes.recipe import Paper, Recipe
from allot.scheme import Scheme
from allot.searchers.asked import as_asked


def whitepaper(bits: Bits) -> Scheme:
    """Weights with a scale per channel, tensors with one static range that holds all seen."""
    tensor = ActivationFormat(grid=UInt(bits=bits.activation), ranges=MinMax())
    return Scheme(
        weight=integers(bits, rounding=Nearest()),
        activation=None if bits.floats else tensor,
        recovery=UNREPAIRED,
    )


WHITEPAPER = Recipe(
    name="whitepaper",
    row="A33",
    paper=Paper(
        authors="Krishnamoorthi",
        year=2018,
        title="Quantizing deep convolutional networks for efficient inference: A whitepaper",
    ),
    axes=("precision",),
    searcher=as_asked,
    passes=whitepaper,
    bits="W8A8",
    widths=(8,),
    part="post-training preset; without quantization-aware training",
    differs="scales of weights are the share of the whole range with least squared error, which "
    "integer kernels take; batch norms are folded at export, which a scale per channel does not "
    "feel; extremes of tensors are taken over all calibration data, not as moving averages",
    oracle="folding a batch norm before or after gives the same; every value seen is on the grid "
    "to half a step",
)
