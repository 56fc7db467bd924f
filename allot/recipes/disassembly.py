"""Disassembly: input channels with outliers split in parts, codes then moved by low rank."""

from __future__ import annotations

from dataclasses import replace

from allot.recipes.bits import Bits
from allot.recipes.offered import IN_ORDER, integers, tensors
from allot.recipes.recipe import Paper, Recipe
from allot.reconstruct.losses import OutputMSE
from allot.reconstruct.low_rank import LowRankRounding
from allot.reconstruct.setting import Reconstruction
from allot.reconstruct.units import Blocks
from allot.rewrites.channel_split import SplitInputs
from allot.scheme import Scheme

RANK = 4


def qllm(bits: Bits) -> Scheme:
    """Outliers split where tensors are quantized, then a product of rank 4 fused into each weight.

    Where tensors stay in float there is nothing to split.
    """
    setting = Reconstruction(
        unit=Blocks(), loss=OutputMSE(), rounding=LowRankRounding(rank=RANK),
        drop=0.0, float_inputs=0.0, learn_steps=False,
    )  # fmt: skip
    return Scheme(
        rewrites=() if bits.floats else (SplitInputs(),),
        weight=integers(bits),
        activation=tensors(bits),
        recovery=replace(IN_ORDER, learning=setting),
    )


QLLM = Recipe(
    name="qllm",
    row="A18",
    paper=Paper(
        authors="Liu et al.",
        year=2024,
        title="QLLM: Accurate and Efficient Low-Bitwidth Quantization for Large Language Models",
    ),
    axes=("precision",),
    passes=qllm,
    part="channel disassembly and low-rank tuning; without assembly, which changes what the "
    "network computes: what is measured against the network would not see that loss",
    differs="layers stay wider by the channels that were added, a twentieth, and their bytes "
    "count; the threshold is the least that this share allows, not searched for the output's "
    "error; codes start from rounding in order; the sum of weight and product is rounded to the "
    "fitted grid while it is learned, not afterwards",
    oracle="the float output is unchanged; a block's loss never above that of what it started "
    "from; rank 0 leaves every code; the error of assembly as it is stated",
)
