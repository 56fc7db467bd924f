"""Laws of originals: the rewrite that takes outliers away is found, and none is taken that harms.

Faults these laws must catch: candidates measured on other plans or samples than the network
without any; a misfit that ends the job or wins it; a comparison that is made again when a job goes
on; passes that are not counted; bills relative to the rewritten network.
"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from allot import billed, flow
from allot.beginning import Asked, begun
from allot.cli.entry import call
from allot.errors import InputError
from allot.files import read_json
from allot.flow import Outcome, compress
from allot.job import Job, budgets
from allot.memo import Memo
from allot.options import precision, width
from allot.originals import NONE, Comparison, Tried, best, compared, named, plain, sentence
from allot.rewrites.bn_folding import FoldNorms
from allot.rewrites.smoothing import Smooth
from allot.runtimes.ideal import Ideal
from allot.search import Effort
from allot.setup import read_job
from allot.space import Point
from allot.target import Workload
from allot.task import Task
from allot.trace import trace
from tests import small, tiny, toys

BUDGETS = ("size=40%", "bitops=6%")
SMOOTH = {"smooth": (Smooth(),)}


def planted(t: Task, *, channels: tuple[int, ...] = (3, 11), size: float = 40.0) -> Task:
    """The same function, some channels of what its layer norms put out `size` times as large."""
    model = t.model
    assert isinstance(model, nn.Sequential)
    with torch.no_grad():
        for i, module in enumerate(model):
            if isinstance(module, nn.LayerNorm):
                factor = torch.ones(module.weight.shape)
                factor[list(channels)] = size
                module.weight *= factor
                module.bias *= factor
                model[i + 1].weight /= factor
    return t


def comparison(t: Task, memo: Memo | None = None, **changes: Any) -> Comparison:
    graph = trace(t.model, t.forward, t.example())
    asked = Asked(
        task=t, graph=graph, axes={"precision": precision.space}, target=Ideal(), pins={},
        excludes=(), **changes,
    )  # fmt: skip
    job = Job(
        task="tiny", graph=graph.digest, weights="w", budgets=BUDGETS, max_drop=1.0,
        axes=("precision",), target="ideal", workload=Workload(), seed=0,
    )  # fmt: skip
    memo = Memo() if memo is None else memo
    return Comparison(asked=asked, budgets=budgets(BUDGETS), memo=memo, job=job)


def test_with_outliers_in_known_channels_the_rewrite_that_smooths_them_is_taken() -> None:
    found = compared(comparison(planted(tiny.normed())), SMOOTH)
    none, smooth = found
    assert best(found).name == "smooth"
    assert none.loss is not None and smooth.loss is not None and smooth.loss < 0.8 * none.loss
    assert [label for label, _ in none.plans] == [label for label, _ in smooth.plans]


@pytest.mark.parametrize("make", [tiny.normed, tiny.task])
def test_no_rewrite_is_taken_that_measures_worse_than_none(make: Any) -> None:
    found = compared(comparison(make()), named(["auto"]))
    losses = {t.name: t.loss for t in found}
    assert losses[NONE] is not None
    assert all(best(found).loss <= v for v in losses.values() if v is not None)  # type: ignore[operator]
    for t in found:
        assert (t.loss is None) == bool(t.refused) == (not t.plans)


def test_of_equals_the_network_as_it_is_wins() -> None:
    rows = [Tried(name=n, loss=x) for n, x in ((NONE, 0.5), ("a", 0.5), ("b", None))]
    assert best(rows).name == NONE
    rows.append(Tried(name="c", loss=0.4))
    assert best(rows).name == "c"


def test_the_plans_are_the_largest_within_the_budgets_one_per_format_of_activations() -> None:
    c = comparison(tiny.normed())
    (found,) = compared(c, {})
    assert found.loss == pytest.approx(math.prod(x for _, x in found.plans) ** (1 / 3), rel=1e-9)
    space = begun(c.asked, ()).space
    bills = billed.tables(space, Ideal(), workload=Workload(), asked=())
    whole = billed.originals(c.asked.graph, workload=Workload(), asked=())

    def fits(point: Point) -> bool:
        shares = {"size": 0.4, "bitops": 0.06}
        return all(bills[k].of(point) <= v * whole[k] for k, v in shares.items())

    plans = {f"{w} {a}": (a, p) for w, a, p in plain(space)}
    assert space.original not in [p for _, p in plans.values()]
    wanted = {a for a, p in plans.values() if fits(p)}
    assert {plans[label][0] for label, _ in found.plans} == wanted == {"A8", "A6", "A4"}
    for label, loss in found.plans:
        tensors, point = plans[label]
        assert fits(point) and loss > 0
        assert {o.label for o in space.options(point).values()} == set(label.split())
        larger = [p for a, p in plans.values() if a == tensors and fits(p)]
        assert max(bills["size"].of(p) for p in larger) == bills["size"].of(point)


def test_what_was_compared_is_read_when_it_is_asked_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    t = planted(tiny.normed())
    first = compared(comparison(t, Memo(tmp_path / "m")), SMOOTH)
    monkeypatch.setattr("allot.originals.begun", None)
    again = compared(comparison(t, Memo(tmp_path / "m")), SMOOTH)
    assert again == first and sentence(again) == sentence(first)


def test_only_what_the_network_without_rewrites_lacks_ends_the_job() -> None:
    t = tiny.task()
    with pytest.raises(InputError):
        compared(comparison(t), {}, before=(Smooth(),))
    found = compared(comparison(t), SMOOTH)
    assert found[1].refused and best(found).name == NONE and "smooth (" in sentence(found)


def test_where_nothing_is_quantized_rewrites_are_refused(tmp_path: Path) -> None:
    c = comparison(tiny.task())
    c = replace(c, asked=replace(c.asked, axes={"width": width.space}))
    with pytest.raises(InputError, match="add precision to --axes"):
        compared(c, {})
    with pytest.raises(InputError, match="add precision to --axes"):
        compress(
            tiny.task(), axes={"width": width.space}, target=Ideal(), out=tmp_path / "run",
            originals=SMOOTH,
        )  # fmt: skip
    assert not (tmp_path / "run").exists()


def test_a_name_that_is_no_rewrite_is_refused_with_those_that_are() -> None:
    with pytest.raises(InputError, match=r"there are equalize, .*smooth.*auto for all"):
        named(["smoooth"])
    assert named([]) == {} and list(named(["rotate", "smooth"])) == ["smooth", "rotate"]


def job(out: Path, **settings: Any) -> Outcome:
    given: dict[str, Any] = {
        "budgets": BUDGETS, "max_drop": 90.0, "axes": {"precision": precision.space},
        "target": Ideal(), "effort": Effort(levels=2, rounds=1, batch=2),
        "originals": {**SMOOTH, "folded": (FoldNorms(),)}, **settings,
    }  # fmt: skip
    return compress(planted(tiny.normed()), out=out, **given)


class Stop(BaseException):
    """What a kill does, at a chosen moment."""


def test_a_job_goes_on_with_the_best_and_says_what_it_chose_among(tmp_path: Path) -> None:
    said: list[str] = []
    done = job(tmp_path / "a", tell=said.append)
    assert [s for s in said if s.startswith("rewrite taken: smooth; ")]
    written = read_job(done.folder)
    assert written.rewrites == (Smooth(),) and dict(written.originals)["smooth"] == (Smooth(),)
    told = done.summary["rewrites"]
    assert told["chosen"] == "smooth" and [x["name"] for x in told["tried"]][1:] == [
        *("smooth", "folded")
    ]
    plan = read_json(done.folder / "plan.json")
    assert [json.loads(r)["is"] for r in plan["rewrites"]] == ["allot.rewrites.smoothing:Smooth"]
    # the original that bills are a share of is the user's
    before = trace(tiny.normed().model, tiny.normed().forward, tiny.normed().example())
    assert done.summary["original"]["size"] == before.folded_bytes

    def stop(stage: str, share: float) -> None:
        if stage == "originals" and share >= 0.5:
            raise Stop

    with pytest.raises(Stop):
        job(tmp_path / "b", report=stop)
    with pytest.raises(InputError, match="--resume"):
        job(tmp_path / "b")
    again = job(tmp_path / "b", resume=True)
    assert again.front == done.front and again.summary["rewrites"] == told
    with pytest.raises(InputError, match="originals differ"):
        job(tmp_path / "b", resume=True, originals={})


def test_passes_of_the_comparison_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spent: list[float] = []

    def look(run: Any, *rest: Any, **named: Any) -> None:
        spent.append(run.evaluator.spent)
        raise Stop

    monkeypatch.setattr(flow, "explore", look)
    for originals in ({}, SMOOTH):
        with pytest.raises(Stop):
            job(tmp_path / str(len(spent)), originals=originals)
    t = tiny.normed()
    some = min(64, len(t.search))
    each = some + 3 * (some + len(t.calibrate))
    assert spent[1] - spent[0] == pytest.approx(2 * each / len(t.search), rel=1e-9)


def test_the_command_line_refuses_a_name_before_anything_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    code = call([*tiny.COMPRESS, "--out", str(out), "--try-rewrites", "smoth"])
    assert code == 2 and not out.exists()
    assert "--try-rewrites smoth: there is no such rewrite" in capsys.readouterr().err


def test_toys_are_what_these_laws_take_them_for() -> None:
    a, b = tiny.normed(), planted(tiny.normed())
    x = toys.images(4)
    torch.testing.assert_close(a.model(x), b.model(x), rtol=1e-4, atol=1e-4)
    assert small.hooks(b.model) == 0
