"""Relevance: precision decided by how much of a prediction flows through a layer."""

from __future__ import annotations

from allot.harm.lrp import lrp
from allot.num.formats import UInt
from allot.num.rounding import Nearest
from allot.options.behind_norms import BehindNorms
from allot.options.sharing import PerChannel
from allot.options.tensors import ActivationFormat
from allot.recipes.bits import Bits
from allot.recipes.offered import UNREPAIRED, integers
from allot.recipes.recipe import Paper, Recipe
from allot.scheme import Scheme
from allot.searchers.knapsack import open_loop


def lrp_qvit(bits: Bits) -> Scheme:
    """Static ranges: a clipped one per channel behind norms, one per tensor elsewhere."""
    grid = UInt(bits=bits.activation)
    whole = ActivationFormat(grid=grid)
    tensor = BehindNorms(made=ActivationFormat(grid=grid, sharing=PerChannel()), others=whole)
    return Scheme(
        weight=integers(bits, rounding=Nearest()),
        activation=None if bits.floats else tensor,
        recovery=UNREPAIRED,
    )


LRP_QVIT = Recipe(
    name="lrp-qvit",
    row="A10",
    paper=Paper(
        authors="Ranjan and Savakis",
        year=2024,
        title="LRP-QViT: Mixed-Precision Vision Transformer Quantization via Layer-wise Relevance "
        "Propagation",
    ),
    axes=("precision",),
    signals=(lrp,),
    searcher=open_loop,
    passes=lrp_qvit,
    differs="relevance is value times slope, its positive part; it weighs the relative error of "
    "an option, for which the paper gives no formula; bits of weights alone are chosen; channels "
    "are clipped where the squared error is least, and their ranges stay beside the tensor",
    oracle="relevance is conserved; brute force over all plans; behind norms, and only there, a "
    "range per channel",
)
