"""Laws of the whole job: what is promised is in the folder, what breaks off goes on the same.

Faults these laws must catch: a certificate from other predictions than the file's; a size that
is not the file's; certify samples used twice; a resumed job with another result; the user's
network changed; an artefact written without a proof.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from allot import front as fronts
from allot import ledger
from allot.artefact import check, open_artefact
from allot.certify import load as load_statement
from allot.certify import state, state_agreement
from allot.clock import predictions
from allot.errors import ArtefactError, BudgetError, InputError, NotCertified
from allot.flow import Outcome, compress, rebuild
from allot.ledger import sample_digests
from allot.options import precision, width
from allot.plan import load as load_plan
from allot.plan import weights_digest
from allot.report.data import read
from allot.runtimes.ideal import Ideal
from allot.search import Effort
from allot.setup import read_job
from allot.task import Task
from tests import small, toys

AXES = {"precision": precision.space, "width": width.space}
EFFORT = Effort(levels=4, rounds=1, batch=2)


def task(*, labels: bool = True) -> Task:
    return small.task(toys.chain, calibrate=48, search=40, certify=300, labels=labels)


def job(t: Task, out: Path, **settings: Any) -> Outcome:
    given: dict[str, Any] = {
        "budgets": ("size=30%", "bitops=20%"), "max_drop": 20.0, "axes": AXES, "target": Ideal(),
        "effort": EFFORT, **settings,
    }  # fmt: skip
    return compress(t, out=out, **given)


def content(folder: Path, name: str) -> Any:
    return json.loads((folder / name).read_text())


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Task, Outcome]:
    """One finished job, to be read only."""
    t = task()
    t.model.train()
    before = small.state(t.model), small.identities(t.model)
    outcome = job(t, tmp_path_factory.mktemp("run") / "out")
    assert small.same_state(before[0], small.state(t.model))
    assert before[1] == small.identities(t.model) and small.hooks(t.model) == 0
    assert t.model.training and all(p.requires_grad for p in t.model.parameters())
    return t, outcome


def ran(t: Task, folder: Path) -> Tensor:
    """Outputs of the artefact's file on the certify set."""
    session = open_artefact(folder).session()
    return predictions(session, t.certify.inputs, batch=32)


def test_the_artefact_opens_and_every_document_is_under_its_seal(
    done: tuple[Task, Outcome],
) -> None:
    names = set(check(done[1].folder))
    assert {"plan.json", "front.json", "certificate.json", "summary.json", "report.html"} <= names
    assert not list(done[1].folder.glob(".*"))
    read(done[1].folder)


def test_the_certificate_is_that_of_the_files_own_predictions(done: tuple[Task, Outcome]) -> None:
    t, outcome = done
    with torch.no_grad():
        original = t.forward(t.model.eval(), t.certify.inputs)
    t.model.train()
    found = ran(t, outcome.folder)
    assert t.certify.labels is not None
    scores = (t.score(y, t.certify.labels) for y in (original, found))
    want = state(*scores, max_drop=20.0, metric=t.metric)
    got = load_statement(content(outcome.folder, "certificate.json"))
    assert (want.bound, want.drop, want.lost, want.gained, want.n) == (
        got.bound, got.drop, got.lost, got.gained, got.n,
    )  # fmt: skip
    assert got == outcome.statement and got.certified and got.bound <= got.max_drop == 20
    assert not torch.equal(original.argmax(1), found.argmax(1))


def test_the_summary_says_what_the_file_does(done: tuple[Task, Outcome]) -> None:
    t, outcome = done
    found, summary = ran(t, outcome.folder), content(outcome.folder, "summary.json")
    assert t.certify.labels is not None
    hits = t.score(found, t.certify.labels)
    assert summary["compressed"]["metric"] == pytest.approx(float(hits.mean()), abs=1e-12)
    with torch.no_grad():
        original = t.forward(t.model.eval(), t.certify.inputs)
    t.model.train()
    kl = float(t.divergence(original, found).mean())
    assert summary["compressed"]["divergence"] == pytest.approx(kl, rel=1e-3)
    assert summary["original"]["n"] == len(t.certify) == summary["compressed"]["n"]
    assert all(p["holds"] for p in summary["parity"].values())


def test_the_chosen_plan_is_within_its_budgets_and_the_size_is_the_files(
    done: tuple[Task, Outcome],
) -> None:
    folder, summary = done[1].folder, content(done[1].folder, "summary.json")
    size = (folder / "weights.safetensors").stat().st_size
    assert size == summary["compressed"]["size"] <= 0.30 * summary["original"]["size"]
    assert summary["compressed"]["bitops"] <= 0.20 * summary["original"]["bitops"]
    assert done[1].chosen is not None
    chosen = done[1].front.points[done[1].chosen]
    assert chosen.bills["size"] == size and summary["chosen"] == done[1].chosen
    assert sum(x["bytes"] for x in summary["layers"]) < size


def test_the_plan_belongs_to_the_network_and_is_the_chosen_one(
    done: tuple[Task, Outcome],
) -> None:
    t, outcome = done
    plan = load_plan(content(outcome.folder, "plan.json"))
    written = read_job(outcome.folder)
    plan.check(graph=written.graph, weights=weights_digest(t.model))
    assert outcome.chosen is not None
    chosen = outcome.front.points[outcome.chosen]
    assert {k: o.label for k, o in plan.options.items()} == dict(chosen.labels)
    assert plan.recovery == chosen.recovery
    space = rebuild(t, written, axes=AXES, target=Ideal())
    assert space.options(chosen.point) == plan.options


def test_the_front_on_disk_is_the_front(done: tuple[Task, Outcome]) -> None:
    assert fronts.load(content(done[1].folder, "front.json")) == done[1].front
    assert len(done[1].front.points) >= 4


def test_every_sample_is_used_for_one_thing_and_certify_once(done: tuple[Task, Outcome]) -> None:
    t, outcome = done
    uses = ledger.read(outcome.folder).uses
    assert sorted(u.purpose for u in uses) == ["calibrate", "certify", "search"]
    for u in uses:
        data = {"calibrate": t.calibrate, "search": t.search, "certify": t.certify}[u.purpose]
        assert u.digests == sample_digests(data.inputs)


def test_a_folder_in_use_is_refused(done: tuple[Task, Outcome]) -> None:
    with pytest.raises(InputError, match="--resume"):
        job(task(), done[1].folder)
    with pytest.raises(InputError, match="budgets differ"):
        job(task(), done[1].folder, budgets=("size=31%",), resume=True)
    check(done[1].folder)


class Stop(BaseException):
    """What a user's Ctrl-C or a kill does, at a chosen moment."""


def lasting(summary: Mapping[str, Any]) -> dict[str, Any]:
    """What does not depend on when or how fast a job ran."""
    return {k: v for k, v in summary.items() if k not in ("created", "seconds", "versions")}


@pytest.mark.parametrize(
    ("stage", "share"), (("harm", 0.5), ("search", 0.3), ("certify", 0.4), ("export", 0.0))
)
def test_a_job_that_was_stopped_goes_on_to_the_same_result(
    done: tuple[Task, Outcome], tmp_path: Path, stage: str, share: float
) -> None:
    def report(name: str, at: float) -> None:
        if name == stage and at >= share:
            raise Stop

    with pytest.raises(Stop):
        job(task(), tmp_path / "out", report=report)
    with pytest.raises(ArtefactError):
        check(tmp_path / "out")
    outcome = job(task(), tmp_path / "out", resume=True)
    assert outcome.front == done[1].front and outcome.statement == done[1].statement
    assert lasting(outcome.summary) == lasting(done[1].summary)
    for name in ("weights.safetensors", "graph.onnx", "plan.json", "certificate.json"):
        assert (outcome.folder / name).read_bytes() == (done[1].folder / name).read_bytes()


def test_without_labels_agreement_is_certified(tmp_path: Path) -> None:
    t = task(labels=False)
    outcome = job(t, tmp_path / "out", budgets=("size=30%",))
    with torch.no_grad():
        original = t.forward(t.model, t.certify.inputs)
    found = ran(t, outcome.folder)
    want = state_agreement(original.argmax(1), found.argmax(1), max_drop=20.0)
    assert outcome.statement is not None and outcome.statement.kind == want.kind == "disagreement"
    assert (want.bound, want.lost) == (outcome.statement.bound, outcome.statement.lost)


def test_without_budgets_the_smallest_certified_plan_is_taken(tmp_path: Path) -> None:
    outcome = job(
        task(), tmp_path / "out", budgets=(), pins={"conv1.weight": "W8"}, excludes=["re:^head"]
    )
    data = content(outcome.folder, "front.json")
    certified = [p for i, p in enumerate(data["points"]) if data["certified"].get(str(i))]
    assert outcome.chosen is not None
    chosen = data["points"][outcome.chosen]
    assert chosen["bills"]["size"] == min(p["bills"]["size"] for p in certified)
    plan = load_plan(content(outcome.folder, "plan.json"))
    assert plan.options["conv1.weight"].label == "W8"
    assert plan.options["head.weight"].is_original and plan.options["head.input"].is_original


def test_a_drop_that_cannot_be_proven_writes_front_and_report_and_no_artefact(
    tmp_path: Path,
) -> None:
    said: list[str] = []
    with pytest.raises(NotCertified, match=r"is proven to lose at most 0.1 points") as found:
        job(task(), tmp_path / "out", max_drop=0.1, tell=said.append)
    assert found.value.exit_code == 3 and "cannot be proven" in said[0]
    names = {p.name for p in (tmp_path / "out").iterdir()}
    assert {"front.json", "report.html", "summary.json"} <= names
    assert not {"artefact.json", "weights.safetensors", "plan.json"} & names
    assert not any(content(tmp_path / "out", "front.json")["certified"].values())


def test_a_budget_out_of_reach_names_what_can_be_reached(tmp_path: Path) -> None:
    with pytest.raises(BudgetError) as found:
        job(task(), tmp_path / "out", budgets=("size=1%",))
    least = found.value.smallest["size"]
    assert "size" in str(found.value)
    outcome = job(task(), tmp_path / "again", budgets=(f"size={least:.0f}B",), max_drop=100.0)
    assert outcome.chosen is not None
    assert outcome.front.points[outcome.chosen].bills["size"] == least


@pytest.mark.parametrize(
    "settings",
    (
        {"budgets": ("latency=50%",)},
        {"budgets": ("size=0x",)},
        {"max_drop": 0.0},
        {"max_drop": float("nan")},
        {"pins": {"no.such": "W8"}},
        {"excludes": ("re:(",)},
        {"excludes": ("re:.",)},
    ),
    ids=str,
)
def test_bad_settings_end_before_anything_is_written(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    with pytest.raises(InputError):
        job(task(), tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_a_network_with_weights_that_are_not_numbers_is_refused(tmp_path: Path) -> None:
    t = task()
    assert isinstance(t.model.conv1, nn.Conv2d)
    with torch.no_grad():
        t.model.conv1.weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(InputError, match="NaN"):
        job(t, tmp_path / "out")
    assert not (tmp_path / "out").exists()
