"""Laws of the list of recipes: what it says of each is so, and it is the same everywhere.

Faults these must catch: a part that is named but not there; a method of its own hidden in a recipe;
an axis that nothing builds; a name given twice; a page that was not written again; an unknown name
taken for another.
"""

from __future__ import annotations

import importlib
import json
import re
from dataclasses import replace

import pytest

from allot.cli import words
from allot.cli.entry import call
from allot.errors import InputError, MissingError
from allot.job import part_name
from allot.recipes import ALL, SAMPLERS, SEARCHES, Recipe, by_name
from docs.recipes import PAGE, page

each = pytest.mark.parametrize("recipe", ALL, ids=lambda r: r.name)


def found(name: str) -> object:
    """The function that a name of a part, like "harm.hawq", stands for."""
    parent, _, last = name.partition("(")[0].rpartition(".")
    member = vars(importlib.import_module(f"allot.{parent}")).get(last)
    if callable(member):
        return member
    return getattr(importlib.import_module(f"allot.{parent}.{last}"), last)


def test_names_and_rows_are_given_once_and_in_order() -> None:
    assert len({r.name for r in ALL}) == len(ALL)
    rows = [r.row for r in ALL if r.row]
    assert rows == sorted(set(rows)) and [r.row for r in ALL][: len(rows)] == rows
    years = [r.paper.year for r in ALL if not r.row]
    assert years == sorted(years)
    assert {"A01", "A05", "A06", "A07", "A10", "A46", "A59"} <= {r.row for r in ALL}


@each
def test_every_part_is_a_function_of_allot_that_no_recipe_keeps_to_itself(recipe: Recipe) -> None:
    asked = (recipe.searcher is not None) + (recipe.prepare is not None)
    least = len(recipe.signals) + asked
    assert len(recipe.made_of) == least if recipe.passes is None else len(recipe.made_of) >= least
    for name in recipe.made_of:
        assert callable(found(name)) and not name.startswith("recipes")
        assert part_name(found(name)) == name.partition("(")[0]


@each
def test_every_recipe_says_where_it_comes_from_and_what_it_is_checked_against(
    recipe: Recipe,
) -> None:
    assert re.fullmatch(r"[a-z0-9-]+", recipe.name) and re.fullmatch(r"([AB]\d\d)?", recipe.row)
    assert recipe.paper.title and recipe.paper.authors and 1990 < recipe.paper.year < 2030
    assert recipe.oracle and recipe.part and recipe.signals


@each
def test_every_axis_of_a_recipe_is_one_that_is_built(recipe: Recipe) -> None:
    assert recipe.axes and set(recipe.axes) <= set(words.all_axes())


@each
def test_a_recipe_is_found_by_its_name_and_by_no_other(recipe: Recipe) -> None:
    assert by_name(recipe.name) is recipe
    for wrong in (recipe.name.upper(), recipe.name[:-1], recipe.row, ""):
        with pytest.raises(InputError) as error:
            by_name(wrong)
        assert all(r.name in str(error.value) for r in ALL)


@each
def test_axes_are_the_recipes_own_where_none_are_asked_for_and_never_others(
    recipe: Recipe,
) -> None:
    assert recipe.covered(()) == recipe.axes
    for axis in recipe.axes:
        assert recipe.covered((axis,)) == (axis,)
    with pytest.raises(InputError) as error:
        recipe.covered((*recipe.axes, "tea"))
    assert "tea" in str(error.value) and all(a in str(error.value) for a in recipe.axes)


def test_a_recipe_with_a_floor_takes_no_budget_and_others_take_it_as_it_is() -> None:
    assert [r.name for r in ALL if r.floor] == ["augmented-hessian"]
    for r in ALL:
        if not r.floor:
            assert r.searched(budgets=["size=12%"], max_drop=2) is r.searcher
            continue
        with pytest.raises(InputError, match=r"--max-drop .* no --budget \(size=12%\)"):
            r.searched(budgets=["size=12%"], max_drop=2)
        assert r.searched(budgets=(), max_drop=2).keywords == {"floor": 2}  # type: ignore


def test_a_library_that_a_recipe_lacks_is_said_before_anything_runs() -> None:
    r = replace(ALL[0], library="no_such_library")
    with pytest.raises(MissingError, match="needs no_such_library: pip install"):
        r.searched(budgets=(), max_drop=1)


def test_the_page_of_recipes_is_the_one_that_they_make() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "write it again: python -m docs.recipes"
    changed = replace(ALL[0], oracle="something else")
    assert page((changed, *ALL[1:])) != page()
    for r in ALL:
        assert r.paper.title in page() and r.oracle in page()


def test_the_command_shows_every_recipe_with_its_parts(capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["recipes", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)["recipes"]
    assert [d["name"] for d in data] == [r.name for r in (*ALL, *SEARCHES)]
    for d, r in zip(data, (*ALL, *SEARCHES), strict=True):
        assert tuple(d["made_of"]) == r.made_of and d["paper"]["title"] == r.paper.title
    assert call(["recipes"]) == 0
    shown = "".join(capsys.readouterr().out.split())
    for r in (*ALL, *SEARCHES, *SAMPLERS):
        assert r.name in shown and r.row in shown


def test_recipes_of_samplers_have_names_of_their_own_and_say_where_they_run() -> None:
    names = [r.name for r in (*ALL, *SEARCHES, *SAMPLERS)]
    assert len(set(names)) == len(names)
    assert by_name("tmpq-dm") in SEARCHES
    for r in SAMPLERS:
        assert r.made_of and r.oracle and r.paper.title in page()
        with pytest.raises(InputError, match="plans a sampler by itself"):
            by_name(r.name)
