"""Laws of a sampler's whole job: within budget, proven on fresh noises, resumed, refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

import allot
from allot import certify, flow
from allot.errors import BudgetError, DataError, InputError, NotCertified
from allot.files import read_json
from allot.front import load as load_front
from allot.plan import load as load_plan
from allot.runtimes.ideal import Ideal
from allot.samplers.task import Noises, task_of
from allot.task import Task
from tests import tiny_sampler as tiny


def task(steps: int = 4, *, seed: int = 0, certify: int = 200) -> Task:
    return task_of(
        tiny.sampler(steps), tiny.SHAPE, name="tiny", conditions={"label": torch.arange(3)},
        noises=Noises(calibrate=8, search=16, certify=certify, seed=seed),
        sets={"deep": (tiny.DEEP,)},
    )  # fmt: skip


def run(out: Path, *, budget: str = "bitops=4%", **more: object) -> allot.Outcome:
    settings = {"max_drop": 60.0, "evaluations": 60.0, "out": out, "target": Ideal()} | more
    return flow.compress(task(), budgets=[budget], axes={}, **settings)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, allot.Outcome]:
    out = tmp_path_factory.mktemp("job") / "run"
    return out, run(out)


def test_the_chosen_plan_keeps_the_budget_and_is_proven(done: tuple[Path, allot.Outcome]) -> None:
    out, outcome = done
    assert outcome.chosen is not None and outcome.statement is not None
    limit = 0.04 * outcome.front.original["bitops"]
    assert outcome.front.points[outcome.chosen].bills["bitops"] <= limit
    assert outcome.statement.certified and outcome.statement.n == 200
    assert certify.load(read_json(out / "certificate.json")) == outcome.statement


def test_its_files_say_the_same(done: tuple[Path, allot.Outcome]) -> None:
    out, outcome = done
    front = load_front(read_json(out / "front.json"))
    assert front.points == outcome.front.points
    plan = load_plan(read_json(out / "plan.json"))
    assert outcome.chosen is not None
    labels = outcome.front.points[outcome.chosen].labels
    assert {k: o.label for k, o in plan.options.items()} == labels
    summary = read_json(out / "summary.json")
    assert [s["label"] for s in summary["steps"]] == [labels[f"steps.{i}"] for i in range(4)]
    assert "<html" in (out / "report.html").read_text()


def test_a_resumed_job_comes_to_the_same_end(done: tuple[Path, allot.Outcome]) -> None:
    out, outcome = done
    again = run(out, resume=True)
    assert again.front == outcome.front and again.chosen == outcome.chosen


def test_another_job_does_not_take_the_folder(done: tuple[Path, allot.Outcome]) -> None:
    with pytest.raises(InputError, match="not empty"):
        run(done[0])
    with pytest.raises(InputError):
        run(done[0], budget="bitops=5%", resume=True)


def test_noises_that_were_used_are_not_used_again(
    done: tuple[Path, allot.Outcome], tmp_path: Path
) -> None:
    book = (done[0] / "ledger.json").read_text()
    uses = json.loads(book)
    assert "certify" in json.dumps(uses)


def test_a_budget_that_nothing_meets_says_the_least(tmp_path: Path) -> None:
    with pytest.raises(BudgetError, match="the least is"):
        run(tmp_path / "run", budget="bitops=0.001%")
    assert not (tmp_path / "run").exists()


def test_bills_that_a_sampler_does_not_have_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="bitops and size"):
        run(tmp_path / "run", budget="memory=50%")


def test_without_proof_there_is_no_plan_but_a_front(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(NotCertified, match="feature error"):
        run(out, max_drop=1e-4, budget="bitops=1%")
    assert (out / "front.json").exists() and not (out / "plan.json").exists()
    assert "<html" in (out / "report.html").read_text()


def test_sets_that_share_a_noise_are_refused() -> None:
    from allot.judging.noises import check_disjoint

    found = task()
    with pytest.raises(DataError, match="is in the"):
        check_disjoint({"search": found.search, "certify": found.search})


def test_a_published_search_of_steps_and_bits_takes_the_same_job(tmp_path: Path) -> None:
    from allot.recipes.timesteps import TMPQ_DM

    outcome = run(tmp_path / "run", searcher=TMPQ_DM.searcher, budget="bitops=5%")
    assert outcome.chosen is not None
    labels = outcome.front.points[outcome.chosen].labels
    assert not any("reuse" in v for v in labels.values())
