"""Reconstruction: codes and steps learned so that blocks put out what they did."""

from __future__ import annotations

from dataclasses import replace

from allot.harm.adaquant import adaquant
from allot.recipes.bits import Bits
from allot.recipes.offered import MATCHED, integers, tensors
from allot.recipes.recipe import Paper, Recipe
from allot.reconstruct.losses import FisherWeighted, OutputMSE
from allot.reconstruct.setting import Reconstruction
from allot.reconstruct.soft import FreeRounding, SoftRounding
from allot.reconstruct.units import Blocks, Layers
from allot.scheme import Scheme
from allot.searchers.knapsack import open_loop


def qdrop(bits: Bits) -> Scheme:
    """Blocks, with activation quantizers left out at random while they are learned."""
    setting = Reconstruction(
        unit=Blocks(), loss=OutputMSE(), rounding=FreeRounding(), drop=0.5, float_inputs=0.5
    )
    return _learned(bits, setting)


def brecq(bits: Bits) -> Scheme:
    """Blocks, their outputs weighed by the squared gradient of what the network puts out."""
    setting = Reconstruction(
        unit=Blocks(), loss=FisherWeighted(), rounding=SoftRounding(), drop=0.0, float_inputs=0.0
    )
    return _learned(bits, setting)


def moved(bits: Bits) -> Scheme:
    """Layers, their codes free to move and their steps learned."""
    setting = Reconstruction(
        unit=Layers(), loss=OutputMSE(), rounding=FreeRounding(), drop=0.0, float_inputs=0.0
    )
    return _learned(bits, setting)


def _learned(bits: Bits, setting: Reconstruction) -> Scheme:
    recovery = replace(MATCHED, in_order=True, learning=setting)
    return Scheme(weight=integers(bits), activation=tensors(bits), recovery=recovery)


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
    passes=moved,
    differs="while bits are chosen, local repair is rounding for least output error and matched "
    "statistics, and finalists alone are learned; the loss is the divergence from the original, "
    "which needs no labels; statistics are matched to the original's, not estimated again",
    oracle="brute force over all plans of 6 layers",
)
QDROP = Recipe(
    name="qdrop",
    row="A02",
    paper=Paper(
        authors="Wei et al.",
        year=2022,
        title="QDrop: Randomly Dropping Quantization for Extremely Low-bit Post-Training "
        "Quantization",
    ),
    axes=("precision",),
    passes=qdrop,
    differs="starts from rounding in order with matched statistics; codes move over the whole "
    "grid, not up or down alone; a block stays as it was where learning did not lower its loss",
    oracle="without activations to drop, the same codes as with drop 0",
)
BRECQ = Recipe(
    name="brecq",
    row="",
    paper=Paper(
        authors="Li et al.",
        year=2021,
        title="BRECQ: Pushing the Limit of Post-Training Quantization by Block Reconstruction",
    ),
    axes=("precision",),
    passes=brecq,
    differs="the gradient is that of the divergence from the original's prediction",
    oracle="a block's weighted loss never above that of what it started from",
)
