"""Curvature: precision decided by the second derivative of the loss."""

from __future__ import annotations

from allot.harm.augmented import augmented
from allot.harm.hawq import hawq
from allot.recipes.recipe import Paper, Recipe
from allot.searchers.bisect import to_floor
from allot.searchers.knapsack import open_loop

HAWQ = Recipe(
    name="hawq",
    row="A07",
    paper=Paper(
        authors="Yao et al.",
        year=2021,
        title="HAWQ-V3: Dyadic Neural Network Quantization",
    ),
    axes=("precision",),
    signals=(hawq,),
    searcher=open_loop,
    differs="several budgets hold at once; activations, which the paper ties to weights, are "
    "measured one at a time; nothing is trained afterwards; the arithmetic of dyadic numbers is "
    "that of any finished run with every layer quantized, by allot export --integer-only: a "
    "residual sum is rounded once, not each side before it, and the file runs in ONNX Runtime, "
    "not TVM",
    oracle="brute force over all plans; an integer reference in NumPy, equal in every bit",
)

AUGMENTED = Recipe(
    name="augmented-hessian",
    row="A05",
    paper=Paper(
        authors="Schaefer et al.",
        year=2023,
        title="Augmenting Hessians with Inter-Layer Dependencies for Mixed-Precision Post-Training "
        "Quantization",
    ),
    axes=("precision",),
    signals=(augmented,),
    searcher=to_floor,
    floor=True,
    differs="how the inter-layer term is built and shared out, for which the authors published no "
    "code",
    oracle="the longest prefix of the list within the floor, by measuring every prefix; "
    "evaluations grow with the logarithm of the layers",
)
