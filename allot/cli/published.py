"""Published: the recipes that can be asked for by name, and what is known of each."""

from __future__ import annotations

from typing import Any

from allot.cli import arguments as a
from allot.cli import stream
from allot.cli.tables import grid
from allot.recipes import ALL, SAMPLERS, SEARCHES, Recipe, SamplerRecipe


def recipes(json: a.Json = False) -> None:
    """Show the published methods that compress takes as --recipe.

    For each its parts, all of which other methods use too, and the paper it comes from.
    """
    if json:
        found = [described(r) for r in (*ALL, *SEARCHES)]
        stream.out_json({"recipes": found, "samplers": [told(r) for r in SAMPLERS]})
        return
    head = ("recipe", "row", "decides", "made of", "comes from")
    rows = [(r.name, r.row, ", ".join(r.axes), ", ".join(r.made_of), _origin(r)) for r in ALL]
    stream.out(grid(head, rows, left=5))
    rows = [(r.name, r.row, ", ".join(r.axes), ", ".join(r.made_of), _origin(r)) for r in SEARCHES]
    rows += [(r.name, r.row, "a plan", ", ".join(r.made_of), _origin(r)) for r in SAMPLERS]
    stream.out("\nOf samplers; those that decide axes are searches, the others plan in Python:")
    stream.out(grid(head, rows, left=5))


def told(recipe: SamplerRecipe) -> dict[str, Any]:
    """All that is known of a recipe for samplers, as JSON data."""
    paper = recipe.paper
    return {
        "name": recipe.name,
        "row": recipe.row,
        "paper": {"authors": paper.authors, "year": paper.year, "title": paper.title},
        "made_of": list(recipe.made_of),
        "part": recipe.part,
        "differs": recipe.differs,
        "oracle": recipe.oracle,
    }


def _origin(recipe: Recipe | SamplerRecipe) -> str:
    return recipe.paper.short + ("" if recipe.part == "complete" else ", in part")


def described(recipe: Recipe) -> dict[str, Any]:
    """All that is known of a recipe, as JSON data."""
    paper = recipe.paper
    return {
        "name": recipe.name,
        "row": recipe.row,
        "paper": {"authors": paper.authors, "year": paper.year, "title": paper.title},
        "axes": list(recipe.axes),
        "made_of": list(recipe.made_of),
        "part": recipe.part,
        "takes_budget": not recipe.floor,
        "differs": recipe.differs,
        "oracle": recipe.oracle,
    }
