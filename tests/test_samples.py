"""Laws of samples: a job calibrates on those it was asked for, written down and found again.

Faults these laws must catch: a way that is not looked at; more samples than there are; labels that
part from their inputs; a folder read again on other samples.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from allot import ledger, reopen
from allot.cli.entry import call
from allot.errors import InputError, ModelError
from allot.files import read_json
from allot.ledger import sample_digests
from allot.mixtures import mixtures, tokens
from allot.options import precision
from allot.runtimes.ideal import Ideal
from allot.samples import WAYS, Samples, take
from allot.selection import cover, features, spread
from allot.setup import read_job
from allot.task import Task
from allot.trace import trace
from allot.workers.order import Factory
from tests import tiny


def taken(t: Task, count: int, by: str) -> tuple[int, ...]:
    return take(t, trace(t.model, t.forward, t.example()), Samples(count=count, by=by)).index


@pytest.mark.parametrize("by", ["first", "dense-diverse", "cover"])
def test_each_way_takes_as_many_as_are_asked_for_each_once(by: str) -> None:
    t = tiny.task()
    index = taken(t, 12, by)
    assert len(set(index)) == 12 and set(index) <= set(range(len(t.calibrate)))
    assert set(taken(t, len(t.calibrate), by)) == set(range(len(t.calibrate)))
    x = features(t, t.calibrate)
    chosen = {"first": torch.arange(12), "dense-diverse": spread(x, 12), "cover": cover(x, 12)}
    assert list(index) == chosen[by].tolist()


def test_balanced_samples_reach_every_expert_more_evenly_than_the_first() -> None:
    t = tiny.experts()
    graph = trace(t.model, t.forward, t.example())
    counts = tokens(t, t.calibrate, mixtures(graph))
    index = torch.tensor(taken(t, 6, "balanced"))
    assert len(set(index.tolist())) == 6
    assert counts[index].sum(0).min() >= counts[:6].sum(0).min()
    with pytest.raises(ModelError, match="no mixture of experts"):
        taken(tiny.task(), 6, "balanced")


def test_labels_stay_with_their_samples() -> None:
    t = tiny.task()
    found = take(t, trace(t.model, t.forward, t.example()), Samples(count=7, by="cover")).of(t)
    assert found.calibrate.labels is not None and isinstance(found.calibrate.inputs, torch.Tensor)
    with torch.no_grad():
        said = t.model(found.calibrate.inputs).argmax(1)
    assert torch.equal(said, found.calibrate.labels)
    assert found.search is t.search and found.certify is t.certify


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (("--calibration-samples", "49"), "the task has 48; give at most that"),
        (("--calibration-samples", "0"), "give 1 or more"),
        (("--calibration-samples", "9", "--select", "best"), "there are first, dense-diverse"),
        (("--select", "cover"), "needs --calibration-samples"),
        (("--calibration-samples", "9", "--select", "balanced"), "no mixture of experts"),
    ],
)
def test_what_cannot_be_chosen_is_refused_before_anything_is_written(
    settings: tuple[str, ...], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert call([*tiny.COMPRESS, "--out", str(out), *settings]) == 2
    assert says in capsys.readouterr().err.strip().splitlines()[-1]
    assert not out.exists()


def test_a_job_is_calibrated_on_them_writes_them_down_and_is_read_again_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    more = ("--calibration-samples", "20", "--select", "dense-diverse", "--evaluations", "60")
    args = [*tiny.COMPRESS, "--axes", "precision", "--out", str(out), *more]
    assert call(args) == 0, capsys.readouterr().err
    t = tiny.task()
    index = taken(t, 20, "dense-diverse")
    wanted = {"by": "dense-diverse", "index": list(index)}
    assert read_json(out / "job.json")["calibration"] == wanted
    used = {u.purpose: u.digests for u in ledger.read(out).uses}
    assert used["calibrate"] == sample_digests(t.calibrate.subset(torch.tensor(index)).inputs)
    axes: dict[str, Any] = {"precision": precision.space}
    run = reopen.reopen(out, t, axes=axes, target=Ideal())
    assert len(run.task.calibrate) == 20
    # workers make the task again, and take the same ones
    calibration = read_job(out).calibration
    assert calibration is not None
    made = Factory(source=f"{tiny.HERE}:task", samples=calibration.index).task()
    assert sample_digests(made.calibrate.inputs) == used["calibrate"]
    fewer = replace(t, calibrate=t.calibrate.subset(slice(0, 10)))
    with pytest.raises(InputError, match="give it the data that it had"):
        reopen.reopen(out, fewer, axes=axes, target=Ideal())
    assert call([*args[:-1], "61", "--resume", "--select", "cover"]) == 2
    assert "calibration differ" in capsys.readouterr().err


def test_the_ways_are_those_of_the_help() -> None:
    from allot.cli import arguments

    text = arguments.Select.__metadata__[0].help  # type: ignore[attr-defined]
    assert all(way in text for way in WAYS)
