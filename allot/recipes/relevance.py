"""Relevance: precision decided by how much of a prediction flows through a layer."""

from __future__ import annotations

from allot.harm.lrp import lrp
from allot.recipes.recipe import Paper, Recipe
from allot.searchers.knapsack import open_loop

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
    part="allocation: relevance of layers and integer program; without clipping per channel",
    differs="relevance is value times slope, its positive part; it weighs the relative error of "
    "an option, for which the paper gives no formula",
    oracle="relevance is conserved; brute force over all plans",
)
