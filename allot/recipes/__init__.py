"""Recipes: published methods by name, each composed of parts that other methods share."""

from __future__ import annotations

from allot.errors import InputError
from allot.recipes.actions import ACTQUANT
from allot.recipes.baseline import WHITEPAPER
from allot.recipes.branches import LORC, SVDQUANT
from allot.recipes.curvature import AUGMENTED, HAWQ
from allot.recipes.data_free import ZEROQ
from allot.recipes.disassembly import QLLM
from allot.recipes.entropy import L2_COMPRESSION
from allot.recipes.evolution import SIMQ_NAS
from allot.recipes.experts import DELE
from allot.recipes.floats import LLM_FP4
from allot.recipes.migration import AWQ, OS_PLUS, OUTLIER_SUPPRESSION, SMOOTHQUANT
from allot.recipes.mixtures import EAQUANT
from allot.recipes.outliers import DGQ
from allot.recipes.recipe import Paper as Paper
from allot.recipes.recipe import Recipe as Recipe
from allot.recipes.reconstruction import ADAQUANT, BRECQ, QDROP
from allot.recipes.relevance import LRP_QVIT
from allot.recipes.rounding import ADAROUND, DISCQUANT, GPTQ, HQQ, NUPES

# by their number in the survey, then those without one by year
ALL: tuple[Recipe, ...] = (
    ADAQUANT, QDROP, DISCQUANT, NUPES, AUGMENTED, ZEROQ, HAWQ, LRP_QVIT, ACTQUANT, LLM_FP4, LORC,
    SVDQUANT, QLLM, OUTLIER_SUPPRESSION, OS_PLUS, EAQUANT, DGQ, WHITEPAPER, SIMQ_NAS,
    L2_COMPRESSION, DELE, ADAROUND, BRECQ, GPTQ, SMOOTHQUANT, AWQ, HQQ,
)  # fmt: skip


def by_name(name: str) -> Recipe:
    """The recipe of a name; raises InputError that lists them all."""
    found = [r for r in ALL if r.name == name]
    if not found:
        raise InputError(f"there is no recipe {name!r}; there are {', '.join(r.name for r in ALL)}")
    return found[0]
