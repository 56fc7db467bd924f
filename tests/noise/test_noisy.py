"""Laws of `verify --noise`: what was tried is printed, written down whole and in the report.

Faults these must catch: a folder that is no artefact any more; a table that says another thing than
the file; mismatches tried of a network that is not what its plan says.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from allot.artefact import add_documents, check
from allot.cli.entry import call
from allot.files import read_json
from allot.options.precision import Weight
from allot.plan import load as load_plan
from allot.report import read, render
from tests.conftest import Finished


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished.folder, tmp_path / "run"))


def test_mismatches_are_told_and_written_down(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 'id="noise"' not in (copied / "report.html").read_text()
    assert 0 == call(["verify", str(copied), "--noise"])
    said = capsys.readouterr().out
    found = read_json(copied / "noise.json")
    assert "noise.json" in check(copied)
    for row in found["singles"]:
        assert row["labels"][0] in " ".join(said.split())
    assert found["verdict"] in " ".join(said.split())
    page = (copied / "report.html").read_text()
    assert 'id="noise"' in page and page == render(read(copied))
    assert "256 levels" in said and "256 levels" in page


def test_with_json_the_mismatches_are_in_the_document(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 0 == call(["verify", str(copied), "--noise", "--json"])
    assert json.loads(capsys.readouterr().out)["noise"] == read_json(copied / "noise.json")


def test_a_network_that_is_not_its_plan_is_not_tried(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = load_plan(read_json(copied / "plan.json"))
    coarse = {k: Weight(bits=2) if k.endswith("weight") else o for k, o in plan.options.items()}
    add_documents(copied, {"plan.json": replace(plan, options=coarse).dump()})
    assert 1 == call(["verify", str(copied), "--noise", "--json"])
    said = json.loads(capsys.readouterr().out)
    assert not said["holds"] and said["first"] and "likely cause" in said["cause"]
    assert "noise" not in said and not (copied / "noise.json").exists()
