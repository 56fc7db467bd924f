"""Data-free: precision decided on inputs that are made from what batch norms remember."""

from __future__ import annotations

from allot.harm.zeroq import zeroq
from allot.recipes.recipe import Paper, Recipe
from allot.searchers.knapsack import open_loop
from allot.synthesis import distilled

ZEROQ = Recipe(
    name="zeroq",
    row="A06",
    paper=Paper(
        authors="Cai et al.",
        year=2020,
        title="ZeroQ: A Novel Zero Shot Quantization Framework",
    ),
    axes=("precision",),
    prepare=distilled,
    signals=(zeroq,),
    searcher=open_loop,
    differs="the exact optimum at every budget stands for the dynamic program over the front; "
    "calibration and harm are distilled once each; the plans it chose are measured on the search "
    "data, so that their loss is known",
    oracle="the front by brute force over 5 layers of 3 formats",
)
