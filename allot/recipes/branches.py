"""Branches: a product of thin matrices beside the weight takes what few bits cannot."""

from __future__ import annotations

from allot.num.formats import Format, Int
from allot.num.rounding import Gptq
from allot.option import Option, count
from allot.recipes.bits import Bits
from allot.recipes.offered import IN_ORDER, UNREPAIRED, integers, tensors
from allot.recipes.recipe import Paper, Recipe
from allot.rewrites.low_rank_branch import Branch
from allot.rewrites.smoothing import Smooth
from allot.scheme import Scheme
from allot.site import Graph, Site

RANK = 8


def lorc(bits: Bits) -> Scheme:
    """The error of rounding made up for by a product of low rank."""

    def ranked(site: Site, graph: Graph) -> Option:
        """Rank 8, or half of what a narrow matrix can have."""
        most = min(site.shape[0], count(site.shape[1:]))
        return integers(bits, rounding=Gptq(), rank=min(RANK, most // 2))

    return Scheme(weight=ranked, activation=tensors(bits), recovery=UNREPAIRED)


def svdquant(bits: Bits) -> Scheme:
    """Outliers moved into weights, and from there into a branch that stays in float."""
    grid = Int(bits=8 if bits.floats else bits.activation)
    fmt = Format(grid=Int(bits=bits.weight), group=bits.group)
    return Scheme(
        rewrites=(Smooth(weight=fmt, activation=grid), Branch(rank=RANK)),
        weight=integers(bits, rounding=Gptq()),
        activation=tensors(bits),
        recovery=IN_ORDER,
    )


LORC = Recipe(
    name="lorc",
    row="A16",
    paper=Paper(
        authors="Yao et al.",
        year=2023,
        title="ZeroQuant-V2: Exploring Post-training Quantization in LLMs from Comprehensive Study "
        "to Low Rank Compensation",
    ),
    axes=("precision",),
    passes=lorc,
    part="low-rank compensation; the study of rounding is what other recipes are for",
    differs="factors are of least output error on the calibration data and in half precision",
    oracle="output error falls with rank (Eckart and Young)",
)
SVDQUANT = Recipe(
    name="svdquant",
    row="A17",
    paper=Paper(
        authors="Li et al.",
        year=2024,
        title="SVDQuant: Absorbing Outliers by Low-Rank Components for 4-Bit Diffusion Models",
    ),
    axes=("precision",),
    passes=svdquant,
    part="decomposition; without the kernel that joins the branch to the low-bit product",
    differs="the branch is stored as float32 layers of its own",
    oracle="the float output is unchanged; the residual has the spectrum that is left",
)
