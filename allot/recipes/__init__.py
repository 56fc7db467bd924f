"""Recipes: published methods by name, each composed of parts that other methods share."""

from __future__ import annotations

from allot.errors import InputError
from allot.recipes.curvature import AUGMENTED, HAWQ
from allot.recipes.data_free import ZEROQ
from allot.recipes.evolution import SIMQ_NAS
from allot.recipes.experts import DELE
from allot.recipes.recipe import Paper as Paper
from allot.recipes.recipe import Recipe as Recipe
from allot.recipes.relevance import LRP_QVIT
from allot.recipes.repaired import ADAQUANT

# by their number in the survey
ALL: tuple[Recipe, ...] = (ADAQUANT, AUGMENTED, ZEROQ, HAWQ, LRP_QVIT, SIMQ_NAS, DELE)


def by_name(name: str) -> Recipe:
    """The recipe of a name; raises InputError that lists them all."""
    found = [r for r in ALL if r.name == name]
    if not found:
        raise InputError(f"there is no recipe {name!r}; there are {', '.join(r.name for r in ALL)}")
    return found[0]
