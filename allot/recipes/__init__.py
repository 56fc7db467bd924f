"""Recipes: published methods by name, each composed of parts that other methods share."""

from __future__ import annotations

from allot.errors import InputError
from allot.flow import Prepare
from allot.job import part_name
from allot.recipes.actions import ACTQUANT
from allot.recipes.baseline import WHITEPAPER
from allot.recipes.branches import LORC, SVDQUANT
from allot.recipes.caching import (
    CACHEQUANT,
    DEEPCACHE,
    FIRST_BLOCK,
    FORA,
    LAZYDIT,
    LEARNING_TO_CACHE,
    TEACACHE,
)
from allot.recipes.curvature import AUGMENTED, HAWQ
from allot.recipes.data_free import ZEROQ
from allot.recipes.decoupled import MIXDQ
from allot.recipes.denoising import EDA_DM, Q_DIFFUSION, TFMQ_DM
from allot.recipes.denoising_formats import FP4_DIT, LOW_BIT_FLOAT, Q_DIT, Q_SCHED, VIDIT_Q
from allot.recipes.denoising_tuned import EFFICIENT_DM, QUEST
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
from allot.recipes.removal import SNAPFUSION
from allot.recipes.rounding import ADAROUND, DISCQUANT, GPTQ, HQQ, NUPES
from allot.recipes.sampled import SamplerRecipe as SamplerRecipe
from allot.recipes.timesteps import TMPQ_DM

# by their number in the survey, then those without one by year
ALL: tuple[Recipe, ...] = (
    ADAQUANT, QDROP, DISCQUANT, NUPES, AUGMENTED, ZEROQ, HAWQ, LRP_QVIT, ACTQUANT, LLM_FP4, LORC,
    SVDQUANT, QLLM, OUTLIER_SUPPRESSION, OS_PLUS, EAQUANT, DGQ, WHITEPAPER, SIMQ_NAS,
    L2_COMPRESSION, DELE, ADAROUND, BRECQ, GPTQ, SMOOTHQUANT, AWQ, HQQ,
)  # fmt: skip


# of samplers: searches that `compress` takes by name, and plans made in Python
SEARCHES: tuple[Recipe, ...] = (MIXDQ, TMPQ_DM)
SAMPLERS: tuple[SamplerRecipe, ...] = (
    VIDIT_Q, Q_DIT, FP4_DIT, LOW_BIT_FLOAT, Q_DIFFUSION, TFMQ_DM, EDA_DM, Q_SCHED, QUEST,
    EFFICIENT_DM, CACHEQUANT, LAZYDIT, SNAPFUSION, DEEPCACHE, FORA, LEARNING_TO_CACHE, TEACACHE,
    FIRST_BLOCK,
)  # fmt: skip


def by_name(name: str) -> Recipe:
    """The recipe of a name; raises InputError that lists them all."""
    found = [r for r in (*ALL, *SEARCHES) if r.name == name]
    if name in {r.name for r in SAMPLERS}:
        raise InputError(
            f"recipe {name!r} plans a sampler by itself, without a search; call its `plan` in "
            "Python (allot.recipes.SAMPLERS)"
        )
    if not found:
        raise InputError(f"there is no recipe {name!r}; there are {', '.join(r.name for r in ALL)}")
    return found[0]


def preparing(name: str) -> Prepare | None:
    """What a recipe makes of a task's data, by the name that a job wrote down; None for none."""
    found = (r.prepare for r in ALL if r.prepare is not None)
    return next((p for p in found if part_name(p) == name), None)
