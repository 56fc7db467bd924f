"""Actions: bits where the outputs depend on a tensor, scales where they feel it."""

from __future__ import annotations

from allot.harm.hsic import hsic
from allot.num.rounding import Nearest
from allot.recipes.bits import Bits
from allot.recipes.offered import UNREPAIRED, integers, tensors
from allot.recipes.recipe import Paper, Recipe
from allot.scheme import Scheme
from allot.searchers.knapsack import open_loop


def actquant(bits: Bits) -> Scheme:
    """Scale and zero point of every group by least squared error weighed by curvature."""
    weight = integers(bits, rounding=Nearest(), zeros=True)
    return Scheme(weight=weight, activation=tensors(bits), recovery=UNREPAIRED)


ACTQUANT = Recipe(
    name="actquant",
    row="A12",
    paper=Paper(
        authors="Akbari et al.",
        year=2026,
        title="ActQuant: Sub-4-bit Action-Guided Quantization for Vision-Language-Action Models",
    ),
    axes=("precision",),
    signals=(hsic,),
    searcher=open_loop,
    passes=actquant,
    bits="W4A16g32",
    part="bits of every weight and scales of its groups; without the runtime in C++ that an agent "
    "writes",
    differs="the network's outputs stand for recorded actions; bits are an exact knapsack over the "
    "summed harm, not greedy over squared sums of blocks; curvature is the second moment of what "
    "a layer reads: of a Fisher diagonal that is a product of inputs' and outputs' parts, the "
    "outputs' part is a factor per row, which no scale of that row feels, so that mixing in "
    "actions changes nothing; groups of integers stand for the formats of llama.cpp",
    oracle="HSIC by brute force over all quadruples; brute force over all plans; weighed error "
    "never above that of the whole range",
)
