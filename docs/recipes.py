"""Writes docs/recipes.md, the page of published methods, from the recipes themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from allot.recipes import ALL, SAMPLERS, SEARCHES, Recipe, SamplerRecipe

PAGE = Path(__file__).with_suffix(".md")
HEAD = """# Recipes

Published methods that `allot compress TASK --recipe NAME` runs. Each is one expression over parts
that other methods use too, on the same encodings, with the same repair and with every pass counted;
its plans are measured, exported and certified like those of allot's own search. `docs/recipes.py`
writes this page.
"""


OF_SAMPLERS = """# Recipes for samplers

`--recipe` takes those that decide axes; the others are functions from a sampler to a planned one,
for Python: `allot.recipes.SAMPLERS`, called with the sampler, seeds to calibrate on and settings.
"""


def page(recipes: Sequence[Recipe] = ALL) -> str:
    """The page as markdown: a table of all, then what is to be known of each."""
    head = ["| recipe | row | decides | made of | paper |", "|---|---|---|---|---|"]
    samplers = (*SEARCHES, *SAMPLERS)
    first = [HEAD, *head, *map(_row, recipes), "", *map(_section, recipes)]
    second = [OF_SAMPLERS, *head, *map(_row, samplers), "", *map(_section, samplers)]
    return "\n".join([*first, *second]).rstrip() + "\n"


def _row(r: Recipe | SamplerRecipe) -> str:
    made_of = ", ".join(f"`{name}`" for name in r.made_of)
    decides = ", ".join(r.axes) if isinstance(r, Recipe) else "a plan"
    return f"| [{r.name}](#{r.name}) | {r.row} | {decides} | {made_of} | {r.paper.short} |"


def _section(r: Recipe | SamplerRecipe) -> str:
    lines = [
        f"## {r.name}",
        "",
        f"{r.paper.authors}, *{r.paper.title}*, {r.paper.year}.",
        "",
        f"- Part: {r.part}.",
        f"- Checked against: {r.oracle}.",
    ]
    if isinstance(r, Recipe) and r.floor:
        lines.insert(-1, "- Takes no budget: it lowers bills as far as `--max-drop` allows.")
    if r.differs:
        lines.insert(-1, f"- Differs: {r.differs}.")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
