"""Routing: mixtures of experts quantized so that tokens still go to the same experts."""

from __future__ import annotations

from dataclasses import replace

from allot.harm.single import single
from allot.mixtures import balanced_first
from allot.recipes.bits import Bits
from allot.recipes.offered import IN_ORDER, integers, tensors
from allot.recipes.recipe import Paper, Recipe
from allot.reconstruct.routers import RouterKL, Routers
from allot.reconstruct.setting import Reconstruction
from allot.reconstruct.soft import SoftRounding
from allot.rewrites.moe_smoothing import SharedSmoothing
from allot.scheme import Scheme


def eaquant(bits: Bits) -> Scheme:
    """One smoothing vector for a router and its experts, the router then learned by its choice."""
    setting = Reconstruction(
        unit=Routers(), loss=RouterKL(), rounding=SoftRounding(),
        drop=0.0, float_inputs=0.0, learn_steps=False,
    )  # fmt: skip
    return Scheme(
        rewrites=(SharedSmoothing(),),
        weight=integers(bits),
        activation=tensors(bits),
        recovery=replace(IN_ORDER, learning=setting),
    )


EAQUANT = Recipe(
    name="eaquant",
    row="A21",
    paper=Paper(
        authors="Fu et al.",
        year=2025,
        title="EAQuant: Enhancing Post-Training Quantization for MoE Models via Expert-Aware "
        "Optimization",
    ),
    axes=("precision",),
    # what foretells harm by gradients wants whole samples in every layer; experts see some tokens
    signals=(single,),
    prepare=balanced_first,
    passes=eaquant,
    differs="the router's codes are learned for the divergence of its choice over all experts, "
    "not its ranges searched; weights are rounded in order, without rotation; samples are put in "
    "another order and none is added, and are counted by tokens that experts read",
    oracle="the float output is unchanged; the router agrees with the original's no less often "
    "than after plain quantization; every expert that some sample reaches sees tokens",
)
