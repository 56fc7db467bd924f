"""Repaired: precision decided by the loss of every option after its own repair."""

from __future__ import annotations

from allot.harm.adaquant import adaquant
from allot.recipes.recipe import Paper, Recipe
from allot.searchers.knapsack import open_loop

ADAQUANT = Recipe(
    name="adaquant",
    row="A01",
    paper=Paper(
        authors="Hubara et al.",
        year=2021,
        title="Accurate Post Training Quantization With Small Calibration Sets",
    ),
    axes=("precision",),
    signals=(adaquant,),
    searcher=open_loop,
    part="allocation: loss after local repair, and integer program; without learned step sizes",
    differs="local repair is rounding for least output error and matched statistics; the loss is "
    "the divergence from the original, which needs no labels",
    oracle="brute force over all plans of 6 layers",
)
