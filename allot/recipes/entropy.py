"""Entropy: weights made small for the coder that stores them, not for a width of their own."""

from __future__ import annotations

from dataclasses import replace

from allot.errors import InputError
from allot.options.precision import Weight
from allot.recipes.bits import Bits
from allot.recipes.offered import MATCHED, tensors
from allot.recipes.recipe import Paper, Recipe
from allot.reconstruct.rated import Rated
from allot.scheme import Scheme

# bits of a code beyond those that it takes on average: what is rare may be large
_BEYOND = 3


def coded(bits: Bits) -> Scheme:
    """Every weight in so many bits on average once it is entropy coded (--budget disk=...).

    Raises InputError for groups, whose steps would have to be stored beside so few bits.
    """
    if bits.group:
        raise InputError(
            f"--bits {bits.text}: entropy-coded weights have one step per output channel; leave "
            f"out g{bits.group}"
        )
    recovery = replace(MATCHED, learning=Rated(bits=float(bits.weight)))
    weight = Weight(bits=min(8, bits.weight + _BEYOND))
    return Scheme(weight=weight, activation=tensors(bits), recovery=recovery)


L2_COMPRESSION = Recipe(
    name="l2-compression",
    row="A56",
    paper=Paper(
        authors="Shi et al.",
        year=2023,
        title="Lossy and Lossless (L2) Post-training Model Size Compression",
    ),
    axes=("precision",),
    passes=coded,
    bits="W2A16",
    widths=(6, 5, 4, 3, 2),
    differs="the bits asked for are those of a weight on average, once coded; steps and first "
    "codes follow from the curvature of the divergence in closed form, with errors made up for by "
    "later columns, and are then learned with norms and biases; steps stay; the count of bits is "
    "triangular between neighbouring codes",
    oracle="codes never take more bits by their own histogram than were asked; at price 0 they "
    "are those of error-compensating rounding",
)
