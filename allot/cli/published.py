"""Published: the recipes that can be asked for by name, and what is known of each."""

from __future__ import annotations

from typing import Any

from allot.cli import arguments as a
from allot.cli import stream
from allot.cli.tables import grid
from allot.recipes import ALL, Recipe


def recipes(json: a.Json = False) -> None:
    """Show the published methods that compress takes as --recipe.

    For each its parts, all of which other methods use too, and the paper it comes from.
    """
    if json:
        stream.out_json({"recipes": [described(r) for r in ALL]})
        return
    rows = [(r.name, r.row, ", ".join(r.axes), ", ".join(r.made_of), _origin(r)) for r in ALL]
    stream.out(grid(("recipe", "row", "decides", "made of", "comes from"), rows, left=5))


def _origin(recipe: Recipe) -> str:
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
