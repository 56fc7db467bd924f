"""Recipes from the command line: asked for by name, bounded in passes, resumed, and refused.

Faults these must catch: a name that is not looked up before work starts; axes of a recipe taken in
silence; passes that are not bounded; a search by another method resumed as if it were the same.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import allot
from allot.cli import words
from allot.cli.entry import call
from allot.files import read_json
from allot.recipes import ALL, Recipe
from allot.recipes.bits import Bits
from tests import tiny

TINY = (f"{tiny.HERE}:task", "--target", "ideal", "--max-drop", "20")
BUDGET = ("--budget", "size=40%")
# nothing between layers
FEW = ("--exclude", r"re:.*\.input")


# groups that divide the layers of the tiny network
BITS = {"actquant": "W8A16g3"}


def task_for(recipe: Recipe) -> str:
    """A tiny network with what the recipe rewrites."""
    if recipe.name == "eaquant":
        return f"{tiny.HERE}:experts"
    rewrites = recipe.passes is not None and recipe.passes(Bits()).rewrites
    return f"{tiny.HERE}:normed" if rewrites else TINY[0]


# in all; on so few search samples, inputs made from noise and Hessian traces cost hundreds
PASSES = "1000"


def compress(
    capsys: pytest.CaptureFixture[str], out: Path, *more: str, task: str | None = None
) -> tuple[int, str, str]:
    """Exit code, stdout and the last line of stderr of a job on the tiny task, or another."""
    capsys.readouterr()
    code = call(["compress", task or TINY[0], *TINY[1:], "--out", str(out), *more])
    text, err = capsys.readouterr()
    assert "Traceback" not in err
    return code, text, (err.strip().splitlines() or [""])[-1]


@pytest.mark.parametrize("recipe", ALL, ids=lambda r: r.name)
def test_every_recipe_goes_through_the_whole_job_by_its_name(
    recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # those that quantize in a way of their own as they are asked: no search, so little time
    budget = () if recipe.floor or recipe.passes else BUDGET
    bits = ("--bits", BITS.get(recipe.name, "W8A16")) if recipe.passes else ()
    more = ("--recipe", recipe.name, "--evaluations", PASSES, "--json", *FEW, *budget, *bits)
    code, text, said = compress(capsys, tmp_path / "run", *more, task=task_for(recipe))
    assert code == 0, said
    summary = json.loads(text)
    assert all((tmp_path / "run" / f).exists() for f in ("certificate.json", "report.html"))
    if budget:
        assert summary["compressed"]["size"] <= 0.4 * summary["original"]["size"]
    axes = tuple(read_json(tmp_path / "run" / "job.json")["axes"])
    own = f"{recipe.name}:{bits[1] if bits else ''}"
    assert axes == (recipe.axes if recipe.passes is None else (own,))
    front = read_json(tmp_path / "run" / "front.json")["points"]
    labels = {label for p in front for label in p["labels"].values()}
    assert any(x[0] in "WFP" and x[-1].isalnum() for x in labels)
    assert any(x.startswith("keep") for x in labels) == ("width" in axes)


def test_a_recipe_that_quantizes_is_searched_under_a_budget(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--recipe", "gptq", "--evaluations", PASSES, "--json", *FEW, *BUDGET)
    code, text, said = compress(capsys, tmp_path / "run", *more)
    assert code == 0, said
    summary = json.loads(text)
    assert summary["compressed"]["size"] <= 0.4 * summary["original"]["size"]
    assert read_json(tmp_path / "run" / "job.json")["axes"] == ["gptq:"]


@pytest.mark.parametrize(
    ("more", "wanted"),
    [
        (("--bits", "W4A8"), "name one"),
        (("--recipe", "hawq", "--bits", "W4A8"), "leave --bits out"),
        (("--recipe", "gptq", "--bits", "4bit"), "give it as W4A8"),
        (("--recipe", "gptq", "--bits", "W4A16g7"), "conv1.weight: groups of 7 do not divide"),
        (("--recipe", "svdquant", "--bits", "W4A8"), "no norm or linear that linears alone read"),
        (("--recipe", "gptq", "--bits", "W4A4", "--target", "openvino-cpu"), "cannot be A4"),
    ],
)
def test_bits_that_cannot_be_had_are_refused_in_one_sentence(
    more: tuple[str, ...], wanted: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, said = compress(capsys, tmp_path / "run", *more)
    assert code == 2 and wanted in said, said
    assert not (tmp_path / "run").exists()


def test_a_recipe_that_is_none_is_refused_with_those_that_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, said = compress(capsys, tmp_path / "run", "--recipe", "zeroqq")
    assert code == 2 and "'zeroqq'" in said and all(r.name in said for r in ALL)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("more", [(), ("--recipe", "zeroq")])
def test_an_axis_that_is_none_is_refused_with_those_that_are(
    more: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, said = compress(capsys, tmp_path / "run", "--axes", "precision,tea", *more)
    assert code == 2 and "no axis 'tea'" in said
    assert all(axis in said for axis in words.all_axes())
    assert not (tmp_path / "run").exists()


def test_the_axes_of_the_package_are_all_known_and_are_the_usual_ones() -> None:
    assert set(allot.AXES) <= set(words.all_axes())
    assert list(words.decided("", None)) == list(allot.AXES)
    for axis in words.all_axes():
        assert list(words.decided(axis, None)) == [axis]


def test_axes_that_a_recipe_does_not_decide_are_refused_and_its_own_are_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    zeroq = ("--recipe", "zeroq", *BUDGET, "--dry-run")
    code, _, said = compress(capsys, tmp_path, "--axes", "precision,width", *zeroq)
    assert code == 2 and "'zeroq' decides precision, not width" in said
    code, text, _ = compress(capsys, tmp_path, "--axes", "precision", *zeroq, "--json")
    alone = json.loads(text)
    assert code == 0 and alone["recipe"] == "zeroq"
    code, text, _ = compress(capsys, tmp_path, *zeroq, "--json")
    assert code == 0 and json.loads(text)["choices"] == alone["choices"]
    kinds = {c["kind"] for c in alone["choices"]}
    assert "channels" not in kinds and not list(tmp_path.iterdir())


def test_a_dry_run_says_what_passes_are_known(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def passes(*more: str) -> float | None:
        _, text, _ = compress(capsys, tmp_path, "--dry-run", "--json", *more)
        found: float | None = json.loads(text)["forward_passes"]
        return found

    own = passes()
    assert own is not None and own > 20
    assert passes("--evaluations", "20") == 20 and passes("--evaluations", "1e9") == own
    assert passes("--recipe", "hawq") is None
    assert passes("--recipe", "hawq", "--evaluations", "30") == 30
    _, text, _ = compress(capsys, tmp_path, "--dry-run", "--recipe", "hawq")
    assert "as recipe hawq takes" in text


def test_a_budget_is_refused_by_the_recipe_that_keeps_a_floor(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--recipe", "augmented-hessian", *BUDGET)
    code, _, said = compress(capsys, tmp_path / "run", *more)
    assert code == 2 and "takes no --budget (size=40%)" in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("passes", ["0", "-4", "nan"])
def test_passes_that_are_none_are_refused_before_anything_is_written(
    passes: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, said = compress(capsys, tmp_path / "run", "--evaluations", passes)
    assert code == 2 and "--evaluations" in said and "above 0" in said
    assert not (tmp_path / "run").exists()


def test_passes_too_few_for_the_signal_are_refused_and_the_folder_goes_on_with_more(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    more = ("--recipe", "adaquant", *BUDGET, *FEW)
    code, _, said = compress(capsys, out, *more, "--evaluations", "3")
    assert code == 2 and "--evaluations 3 is too few" in said
    assert int(said.rpartition("allow ")[2]) > 16
    code, _, said = compress(capsys, out, *more, "--evaluations", PASSES, "--resume")
    assert code == 0, said


def test_a_search_by_another_method_is_not_resumed_as_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    more = (*BUDGET, *FEW, "--evaluations", PASSES, "--resume")
    assert compress(capsys, out, *more, "--recipe", "adaquant")[0] == 0
    code, _, said = compress(capsys, out, *more, "--recipe", "lrp-qvit")
    assert code == 2 and "method" in said and "differ" in said
    assert compress(capsys, out, *more, "--recipe", "adaquant")[0] == 0
