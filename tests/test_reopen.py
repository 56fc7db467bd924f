"""Laws of reopening: what a job was made from is made again, data that came from the network too.

Faults these laws must catch: real samples calibrated on where none were; data made in another way
than the job names; a recipe's data forgotten by the verbs that only know the folder.
"""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import torch

from allot import network, reopen
from allot.artefact import open_artefact
from allot.cli import points
from allot.errors import InputError
from allot.flow import compress
from allot.ledger import sample_digests
from allot.options import precision
from allot.overlays import FOLDER
from allot.recipes import ALL, preparing
from allot.runtimes.ideal import Ideal
from allot.search import Effort
from allot.setup import read_job
from allot.synthesis import distilled
from tests import tiny
from tests.test_cli import call

AXES = {"precision": precision.space}
MADE = functools.partial(distilled, samples=20, steps=3)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished job whose calibration data were made from the network alone."""
    out = tmp_path_factory.mktemp("made") / "run"
    compress(
        tiny.task(), budgets=("size=30%",), max_drop=90.0, axes=AXES, target=Ideal(), out=out,
        effort=Effort(levels=2, rounds=1, batch=2), prepare=MADE,
    )  # fmt: skip
    return out


def test_data_that_the_network_made_are_made_again(done: Path) -> None:
    run = reopen.reopen(done, tiny.task(), axes=AXES, target=Ideal(), prepare=MADE)
    assert len(run.task.calibrate) == 20
    real = sample_digests(tiny.task().calibrate.inputs)
    assert not {*sample_digests(run.task.calibrate.inputs)} & {*real}
    artefact = open_artefact(done)
    # what recovery made is found there, so it was made from the same data
    assert run.meter.overlay(artefact.plan.options, run.recovery(artefact.plan.recovery)) or not (
        [*(done / FOLDER).glob("*")]
    )
    assert reopen.check_again(run, artefact).holds


@pytest.mark.parametrize("other", [None, distilled, functools.partial(distilled, samples=20)])
def test_data_made_in_another_way_are_refused(done: Path, other: object) -> None:
    with pytest.raises(InputError, match="give that function as prepare="):
        reopen.reopen(
            done, tiny.task(), axes=AXES, target=Ideal(), prepare=other  # type: ignore[arg-type]
        )  # fmt: skip


def test_a_job_says_what_made_its_data_and_recipes_know_it(done: Path) -> None:
    assert read_job(done).prepare == "synthesis.distilled(samples=20, steps=3)"
    made = {r.prepare for r in ALL if r.prepare is not None}
    assert made and {preparing(n) for n in ("synthesis.distilled",)} <= made
    assert preparing("") is None and preparing("os.system") is None


def test_verbs_on_a_folder_of_a_data_free_recipe_build_its_space_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert call([*tiny.COMPRESS, "--recipe", "zeroq", "--out", str(out)]) == 0
    capsys.readouterr()
    assert call(["verify", str(out)]) == 0, capsys.readouterr().err
    run = points.reopened(out, "")
    assert len(run.task.calibrate) == 128
    made = network(out, tiny.task())
    x = tiny.task().search.inputs
    assert isinstance(x, torch.Tensor) and made.eval()(x).shape == (len(x), 5)
