"""Floats: weights and tensors in few-bit floating point, exponent and mantissa split by search."""

from __future__ import annotations

from allot.errors import InputError
from allot.num.clipping import PNorm
from allot.num.format_search import FormatSearch
from allot.num.formats import Format
from allot.num.live_ranges import AtRunTime
from allot.num.minifloat import Minifloat
from allot.num.rounding import Nearest
from allot.options.formatted import Formatted
from allot.options.sharing import PerGroup, PerToken
from allot.options.tensors import ActivationFormat
from allot.recipes.bits import Bits
from allot.recipes.offered import UNREPAIRED
from allot.recipes.recipe import Paper, Recipe
from allot.rewrites.exponent_bias import FoldExponentBias
from allot.scheme import Scheme


def llm_fp4(bits: Bits) -> Scheme:
    """Every split of exponent and mantissa tried for every weight; exponents of channels folded."""
    grids = splits(bits.weight)
    weight = Formatted(
        name=f"FP{bits.weight}" + (f"g{bits.group}" if bits.group else ""),
        format=Format(grid=grids[0], group=bits.group),
        ranges=FormatSearch(grids=grids, inner=PNorm()),
        rounding=Nearest(),
    )
    sharing = PerGroup(size=bits.group) if bits.group else PerToken()
    activation = None
    if not bits.floats:
        grid = splits(bits.activation)[-1]
        activation = ActivationFormat(grid=grid, sharing=sharing, ranges=AtRunTime())
    return Scheme(
        rewrites=(FoldExponentBias(),),
        weight=weight,
        activation=activation,
        recovery=UNREPAIRED,
    )


def splits(bits: int) -> tuple[Minifloat, ...]:
    """Every split of so many bits into exponent and mantissa, the most exponent bits last.

    Raises InputError for widths that have none.
    """
    if bits not in (4, 6, 8):
        raise InputError(f"floats have 4, 6 or 8 bits here, not {bits}")
    most = min(bits - 1, 5)
    return tuple(Minifloat(exponent=e, mantissa=bits - 1 - e) for e in range(1, most + 1))


LLM_FP4 = Recipe(
    name="llm-fp4",
    row="A13",
    paper=Paper(
        authors="Liu et al.",
        year=2023,
        title="LLM-FP4: 4-Bit Floating-Point Quantized Transformers",
    ),
    axes=("precision",),
    passes=llm_fp4,
    widths=(8, 6, 4),
    differs="the real-valued exponent bias is the scale; ranges of tensors are found at run time, "
    "their split is fixed",
    oracle="the best of all splits by enumeration; folded exponents leave every bit of the float "
    "output as it was",
)
