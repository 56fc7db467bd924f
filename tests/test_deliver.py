"""Laws of delivery: samples used once, the file judged and not its simulation, no proof no file.

Faults these laws must catch: a second certification on the same samples; a plan preferred after
looking at the certificate; a file that computes something else; an artefact without a plan.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from allot import bill, deliver, ledger, packed, setup
from allot.clock import Clock
from allot.deliver import Delivery, build, proven, refused, verified
from allot.errors import DataError, JobError, ParityError
from allot.front import Front, Measured
from allot.in_process import InProcess
from allot.job import Job
from allot.ledger import sample_digests
from allot.plan import weights_digest
from allot.recover import LIGHT
from allot.run import Run
from allot.runtimes.ideal import Ideal
from allot.space import Point
from allot.stages import Stages
from allot.sweep import outputs
from allot.target import Arrays, Session, Workload
from tests import small


def run(folder: Path, *, max_drop: float = 20.0, **changes: object) -> Run:
    """A job after its search."""
    k = small.kit(calibrate=48, search=40, certify=200, **changes)  # type: ignore[arg-type]
    job = Job(
        task=k.task.name, graph=k.graph.digest, weights=weights_digest(k.task.model),
        budgets=("size=50%",),
        max_drop=max_drop, axes=("precision", "width"), target="ideal", workload=Workload(), seed=0,
    )  # fmt: skip
    path, memo = setup.folder(folder, job, k.task, resume=folder.exists())
    clock = Clock(k.task, k.bank, target=Ideal(), workload=Workload(), memo=memo)
    originals = {"size": float(k.graph.folded_bytes), "bitops": 1.0}
    evaluator = InProcess(
        space=k.space, task=k.task, bank=k.bank, data=k.task.search, recovery=LIGHT, memo=memo,
    )  # fmt: skip
    return Run(
        evaluator=evaluator, task=k.task, job=job, folder=path, target=Ideal(),
        workload=Workload(), stages=Stages(), bank=k.bank, space=k.space, meter=k.meter,
        memo=memo, clock=clock, originals=originals,
    )  # fmt: skip


def point(r: Run, at: Point) -> Measured:
    """A point of the space, measured."""
    options = r.space.options(at)
    loss = r.meter.loss(options, recovery=LIGHT)
    size = bill.size(r.space, header=packed.header_bytes(r.space.graph))
    return Measured(
        point=at, labels={n: o.label for n, o in options.items()}, divergence=loss.divergence,
        bills={"size": size.of(at), "bitops": bill.bitops(r.space, Ideal()).of(at)},
        interval=loss.interval, metric=loss.metric, predicted=0.0, gap=0.0, recovery=LIGHT.name,
    )  # fmt: skip


def front(r: Run) -> Front:
    """Three plans, from careful to careless."""
    kinds = [r.space.graph.site(c.site).kind for c in r.space.choices]
    mild = {"weight": 3, "activation": 1, "channels": 0}
    rough = {"weight": 5, "activation": 2, "channels": 1}
    levels = (mild, {**mild, "channels": 1}, rough)
    found = [point(r, tuple(level[k] for k in kinds)) for level in levels]
    points = tuple(sorted(found, key=lambda m: m.divergence))
    return Front(points=points, original=r.originals)


def delivery(r: Run, *, preferred: int | None = 1) -> Delivery:
    f = front(r)
    chosen = None if preferred is None else f.points[preferred]
    limits = {} if chosen is None else {"size": chosen.bills["size"]}
    return Delivery(run=r, front=f, preferred=chosen, limits=limits)


def judged(r: Run, d: Delivery | None = None) -> Delivery:
    return proven(d or delivery(r), progress=lambda share: None)


def test_the_preferred_plan_is_judged_by_its_file_and_the_others_by_simulation(
    tmp_path: Path,
) -> None:
    r = run(tmp_path / "r")
    d = judged(r)
    assert d.chosen == d.preferred and d.built is not None and d.run_outputs is not None
    labels = r.task.certify.labels
    original = outputs(r.task, r.task.model, r.task.certify, batch=100)
    assert labels is not None
    lost = {}
    for i, m in enumerate(d.front.points):
        standins = r.meter.standins(r.space.options(m.point), LIGHT)
        with r.bank.trial(standins) as model:
            found = outputs(r.task, model, r.task.certify, batch=250)
        found = d.run_outputs if m == d.preferred else found
        before, after = r.task.score(original, labels), r.task.score(found, labels)
        lost[i] = (int((before > after).sum()), int((after > before).sum()))
    tested = {i: (s.lost, s.gained) for i, s in d.statements.items()}
    assert tested == {i: lost[i] for i in tested} and 1 in tested
    assert [s.place for s in d.statements.values()] == [i + 1 for i in tested]


@dataclass(frozen=True, kw_only=True)
class Wrong(Ideal):
    """A runtime that gets one sample in eight wrong."""

    def open(self, onnx: bytes, *, workload: Workload) -> Session:
        return WrongSession(Ideal().open(onnx, workload=workload))


class WrongSession:
    def __init__(self, inner: Session) -> None:
        self.inner = inner

    def run(self, inputs: Arrays) -> dict[str, NDArray[np.generic]]:
        found = self.inner.run(inputs)
        output = found["output"].copy()
        output[::8] = -output[::8]
        return {**found, "output": output}


def test_what_the_runtime_gets_wrong_is_in_the_certificate(tmp_path: Path) -> None:
    r = run(tmp_path / "r", max_drop=100.0)
    right = judged(r).statements[1]
    other = run(tmp_path / "other", max_drop=100.0)
    other.target = Wrong()
    d = judged(other)
    assert d.statements[0].lost < right.lost + 5 < d.statements[1].lost
    assert d.built is not None and d.run_outputs is not None
    with pytest.raises(ParityError):
        verified(other, d.built, d.run_outputs)


def test_the_sequence_ends_where_a_plan_is_not_proven(tmp_path: Path) -> None:
    d = judged(run(tmp_path / "r", max_drop=0.5))
    assert list(d.statements) == [0] and not d.statements[0].certified and d.chosen is None
    assert f"{d.statements[0].bound:.2f}" in d.verdict()
    # point 0 takes more than the budget: what is said is not that it came near
    assert "stopped before them at point 0" in d.verdict()
    within = replace(d, limits={"size": d.front.points[0].bills["size"]})
    assert "nearest is point 0" in within.verdict()


def test_certify_samples_answer_one_question(tmp_path: Path) -> None:
    r = run(tmp_path / "r")
    d = judged(r)
    uses = [u for u in ledger.read(r.folder).uses if u.purpose == "certify"]
    assert [u.digests for u in uses] == [sample_digests(r.task.certify.inputs)]
    # the same question again is no second use, another one is refused
    assert judged(r, delivery(r)).statements == d.statements
    other = replace(d.front, points=d.front.points[:2])
    with pytest.raises(DataError, match="already used to certify"):
        judged(r, replace(delivery(r), front=other))


def test_samples_of_the_search_are_no_proof(tmp_path: Path) -> None:
    r = run(tmp_path / "r")
    r.task = replace(r.task, certify=r.task.search)
    with pytest.raises(DataError, match="already used to search"):
        judged(r)


def test_without_limits_the_smallest_proven_plan_is_chosen(tmp_path: Path) -> None:
    d = judged(r := run(tmp_path / "r", max_drop=100.0), delivery(r, preferred=None))
    assert d.chosen == min(d.front.points, key=lambda m: m.bills["size"])
    assert d.built is not None and len(d.statements) == 3
    assert d.statements[2].place == 3


def test_a_built_plan_computes_the_same_in_every_form(tmp_path: Path) -> None:
    r = run(tmp_path / "r")
    d = judged(r)
    assert d.built is not None and d.run_outputs is not None
    with torch.no_grad():
        stored = d.built.deployed(r.task.certify.inputs)
    # a tensor on the edge between two codes may fall to either side
    near = (d.built.simulated - stored).abs().amax(1) < 1e-3
    assert float(near.float().mean()) > 0.8
    assert verified(r, d.built, d.run_outputs).holds
    again = build(r, d.front.points[1])
    assert again.onnx == d.built.onnx


def test_a_file_that_computes_something_else_is_refused(tmp_path: Path) -> None:
    r = run(tmp_path / "r")
    d = judged(r)
    assert d.built is not None and d.run_outputs is not None
    with pytest.raises(ParityError):
        verified(r, d.built, d.run_outputs.roll(1, 0))
    with pytest.raises(ParityError):
        deliver.deliver(replace(d, run_outputs=d.run_outputs + torch.randn_like(d.run_outputs)))
    assert not (r.folder / "artefact.json").exists()


def test_a_size_other_than_the_account_is_refused(tmp_path: Path) -> None:
    r = run(tmp_path / "r")
    d = judged(r)
    assert d.chosen is not None
    wrong = replace(d.chosen, bills={**d.chosen.bills, "size": d.chosen.bills["size"] - 1})
    points = tuple(wrong if m == d.chosen else m for m in d.front.points)
    lied = replace(d, chosen=wrong, preferred=wrong, front=replace(d.front, points=points))
    with pytest.raises(JobError, match="on disk"):
        deliver.deliver(lied)


def test_nothing_is_delivered_without_a_proof(tmp_path: Path) -> None:
    r = run(tmp_path / "r", max_drop=0.5)
    d = judged(r)
    with pytest.raises(JobError, match="no certified plan"):
        deliver.deliver(d)
    refused(d)
    written = {p.name for p in r.folder.iterdir()}
    assert {"front.json", "harm.json", "summary.json", "report.html"} <= written
    assert "artefact.json" not in written
    data = json.loads((r.folder / "front.json").read_text())
    assert data["certified"] == {"0": False} and "0" in data["bounds"]


def test_a_plan_beyond_the_limits_is_not_named_as_near(tmp_path: Path) -> None:
    d = delivery(run(tmp_path / "r"))
    assert "no measured plan met the budgets" in replace(d, limits={"size": 1.0}).verdict()


def test_outputs_of_the_original_are_those_of_the_users_network(tmp_path: Path) -> None:
    r = run(tmp_path / "r")
    with torch.no_grad():
        want: Tensor = r.task.model(r.task.certify.inputs)
    assert torch.allclose(want, deliver.original_outputs(r), atol=1e-5)
