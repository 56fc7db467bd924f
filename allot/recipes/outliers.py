"""Outliers: ranges of tensors shared along the axis in which outliers do not lie."""

from __future__ import annotations

from allot.num.formats import UInt
from allot.num.rounding import Nearest
from allot.options.outlier_axis import OutlierAxis
from allot.recipes.bits import Bits
from allot.recipes.offered import UNREPAIRED, integers
from allot.recipes.recipe import Paper, Recipe
from allot.scheme import Scheme

GROUPS = 8


def dgq(bits: Bits) -> Scheme:
    """Groups of channels or of tokens, whichever differ more, with a range each."""
    tensor = OutlierAxis(grid=UInt(bits=bits.activation), groups=GROUPS)
    return Scheme(
        weight=integers(bits, rounding=Nearest()),
        activation=None if bits.floats else tensor,
        recovery=UNREPAIRED,
    )


DGQ = Recipe(
    name="dgq",
    row="A26",
    paper=Paper(
        authors="Ryu et al.",
        year=2025,
        title="DGQ: Distribution-Aware Group Quantization for Text-to-Image Diffusion Models",
    ),
    axes=("precision",),
    passes=dgq,
    part="choice of the outliers' axis for every tensor that a layer reads; without the "
    "logarithmic quantizer of attention scores, since scores are no site here, its scale per "
    "prompt and its start token apart, and without ranges per step of the sampler",
    differs="k-means begins at the outliers instead of at random; convolutions share ranges over "
    "pixels of their input, where the authors range its patches",
    oracle="outliers planted in a channel or in a token are found there, and their group is theirs "
    "alone; enumeration of all groupings of few ranges",
)
