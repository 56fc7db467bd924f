"""Laws of stored overlays in a job: a finished one is read, by all that open it, and not learned.

Faults these laws must catch: recovery done again where its result lies; a point taken without what
was made for it; a file that is whole, but not the one that the plan names.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from torch import nn

from allot import reopen
from allot.artefact import open_artefact
from allot.errors import PlanError
from allot.flow import Outcome, compress
from allot.options import precision
from allot.overlays import FOLDER
from allot.recover import Recovery, recovered
from allot.runtimes.ideal import Ideal
from allot.search import Effort
from allot.task import Task
from tests import tiny
from tests.test_overlays import LEARNED

AXES = {"precision": precision.space}


def job(t: Task, out: Path, *, resume: bool = False) -> Outcome:
    return compress(
        t, budgets=("size=30%", "bitops=5%"), max_drop=90.0, axes=AXES, target=Ideal(), out=out,
        effort=Effort(levels=2, rounds=1, batch=2), strong=replace(LEARNED, samples=48),
        resume=resume,
    )  # fmt: skip


def test_a_finished_job_is_read_and_not_learned_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    t = tiny.task()
    done = job(t, tmp_path / "run")
    stored = {p.name for p in (done.folder / FOLDER).iterdir()}
    strong = [p for p in done.front.points if "reconstructed" in p.recovery]
    assert strong

    def never(*args: object, **named: object) -> None:
        raise AssertionError("recovery was done again")

    monkeypatch.setattr("allot.repair.recovered", never)
    run = reopen.reopen(done.folder, t, axes=AXES, target=Ideal())
    point, at = tmp_path / "point", done.front.points.index(strong[0])
    reopen.take_point(run, at, out=point, uncertified=True)
    artefact = open_artefact(point)
    overlays = run.meter.overlays
    assert overlays is not None
    recovery, plans = run.recovery(strong[0].recovery), [run.space.options(p.point) for p in strong]
    assert artefact.plan.overlays == (overlays.digest(plans[0], recovery),)
    keys = [overlays.keys(plan, recovery) for plan in plans]
    assert {n.partition(".")[0] for n in stored} == {key for found in keys for key in found}
    copied = {p.name for p in (point / FOLDER).iterdir()}
    assert copied <= stored and {n.partition(".")[0] for n in copied} == {*keys[0]}
    again = reopen.reopen(point, t, axes=AXES, target=Ideal())
    assert reopen.check_again(again, artefact).holds
    # one that is whole, but not the one that the plan names
    other = replace(artefact.plan, overlays=("f" * 32,))
    with pytest.raises(PlanError, match="take the folder's overlays away"):
        reopen.network(again, replace(artefact, plan=other))
    # only what no overlay holds is repaired again where a job is resumed
    asked = list[str]()

    def light(*args: object, recovery: Recovery, **named: object) -> dict[str, nn.Module]:
        asked.append(recovery.name)
        return recovered(*args, recovery=recovery, **named)  # type: ignore[arg-type]

    monkeypatch.setattr("allot.repair.recovered", light)
    plan = (done.folder / "plan.json").read_bytes()
    resumed = job(t, done.folder, resume=True)
    assert resumed.front == done.front and "in order" not in "".join(asked)
    assert (done.folder / "plan.json").read_bytes() == plan
