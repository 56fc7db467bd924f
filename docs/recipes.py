"""Writes docs/recipes.md, the page of published methods, from the recipes themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from allot.recipes import ALL, Recipe

PAGE = Path(__file__).with_suffix(".md")
HEAD = """# Recipes

Published methods that `allot compress TASK --recipe NAME` runs. Each is one expression over parts
that other methods use too, on the same encodings, with the same repair and with every pass counted;
its plans are measured, exported and certified like those of allot's own search. `docs/recipes.py`
writes this page.
"""


def page(recipes: Sequence[Recipe] = ALL) -> str:
    """The page as markdown: a table of all, then what is to be known of each."""
    rows = [_row(r) for r in recipes]
    table = ["| recipe | row | decides | made of | paper |", "|---|---|---|---|---|", *rows]
    return "\n".join([HEAD, *table, "", *(_section(r) for r in recipes)]).rstrip() + "\n"


def _row(r: Recipe) -> str:
    made_of = ", ".join(f"`{name}`" for name in r.made_of)
    return (
        f"| [{r.name}](#{r.name}) | {r.row} | {', '.join(r.axes)} | {made_of} | {r.paper.short} |"
    )


def _section(r: Recipe) -> str:
    lines = [
        f"## {r.name}",
        "",
        f"{r.paper.authors}, *{r.paper.title}*, {r.paper.year}.",
        "",
        f"- Part: {r.part}.",
        f"- Checked against: {r.oracle}.",
    ]
    if r.floor:
        lines.insert(-1, "- Takes no budget: it lowers bills as far as `--max-drop` allows.")
    if r.differs:
        lines.insert(-1, f"- Differs: {r.differs}.")
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
