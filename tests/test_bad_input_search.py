"""Bad input to a search: one clear sentence before long work, and nothing that was measured lost.

Faults these must catch: labels that are not looked at; a network run once, or on too few samples;
NaN that is seen but not said where; a bound above the original taken in silence; the smallest bound
named for one bill of several; passes too few to choose a plan with.
"""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from allot import probe, setup
from allot.capped import Capped
from allot.check import check, check_forward
from allot.cli.entry import call
from allot.errors import BudgetError, DataError, InputError, ModelError
from allot.job import budget
from allot.space import Point
from allot.task import Data
from allot.trace import trace
from tests import small, spoilt, synthetic, tiny, toys


def compress(name: str, out: Path, *more: str, file: str = spoilt.HERE) -> int:
    args = [f"{file}:{name}", "--target", "ideal", "--max-drop", "20", "--out", str(out)]
    return call(["compress", *args, *more])


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """The last line on stderr, where an error is said; there is no traceback above it."""
    err = capsys.readouterr().err
    assert "Traceback" not in err
    return err.strip().splitlines()[-1]


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("single_class", "all 48 samples of the search set have one and the same label, 3"),
        ("random_on_few", "module 'doubtful' gives different outputs for the same input"),
        ("nan_on_few", "module 'root' gives NaN"),
        ("nan_always", "module 'front.1' gives NaN"),
        ("overflowing", "NaN or infinite"),
    ],
)
def test_a_fault_that_a_search_would_meet_late_is_said_before_anything_is_written(
    name: str, part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compress(name, tmp_path / "run") == 2
    assert part in sentence(capsys)
    assert not (tmp_path / "run").exists()


def test_the_spoilt_tasks_are_sound_where_a_trace_looks() -> None:
    for make in (spoilt.random_on_few, spoilt.nan_on_few):
        t = make()
        assert trace(t.model, t.forward, t.example()).layers
        with pytest.raises(ModelError):
            check_forward(t)


def test_a_sound_task_passes_every_check() -> None:
    for t in (tiny.task(), tiny.unlabelled(), small.task()):
        assert check(t) is None and check_forward(t) is None


@pytest.mark.parametrize("labels", ["one", "two", "none", "rows"])
def test_labels_are_refused_exactly_where_all_are_alike(labels: str) -> None:
    t = tiny.task()
    n = len(t.search)
    given = {
        "one": torch.ones(n, dtype=torch.long),
        "two": torch.tensor([0] * (n - 1) + [1]),
        "none": None,
        "rows": torch.zeros(n, 3),
    }[labels]
    t = replace(t, search=replace(t.search, labels=given))
    if labels in ("one", "rows"):
        with pytest.raises(DataError, match="one and the same label"):
            check(t)
    else:
        assert check(t) is None


def test_a_network_in_training_mode_is_checked_as_it_will_be_run_and_left_as_it_is() -> None:
    t = tiny.task()
    t = replace(t, model=nn.Sequential(t.model, nn.Dropout(0.5)).train())
    check_forward(t)
    assert all(m.training for m in [t.model, t.model[1]])
    assert small.hooks(t.model) == 0


def test_the_first_module_with_nan_is_named_and_not_one_that_passes_it_on() -> None:
    model = toys.seeded(nn.Sequential(nn.Conv2d(3, 4, 1), spoilt.Always(), nn.Conv2d(4, 4, 1)))
    found = probe.outputs(model, lambda m, x: m(x), toys.images(2))
    assert probe.first_nan(found) == "module '1'"
    assert not probe.first_nan(probe.outputs(model[0], lambda m, x: m(x), toys.images(2)))
    with pytest.raises(ModelError, match="module '1' gives NaN in 512 of its values"):
        data = Data(inputs=toys.images(2))
        probe.check_finite(model, lambda m, x: m(x), data, of="search", batch=1000)
    assert small.hooks(model) == 0


def test_a_plan_that_makes_nan_is_blamed_on_the_module_that_stands_in() -> None:
    k = small.kit()
    broken = {"conv2": nn.Sequential(k.bank.module("conv2"), spoilt.Always())}
    with k.bank.trial(broken) as model:
        error = probe.blamed(model, k.task.forward, k.task.search.inputs, of="a plan")
    assert "in a plan, module 'conv2.1' gives NaN" in str(error)


def test_infinities_inside_that_mask_are_no_fault() -> None:
    class Masked(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x.masked_fill(x < 0, -torch.inf)

    model = nn.Sequential(Masked(), nn.Softmax(dim=-1))
    x = toys.images(2).abs()
    x[0, 0, 0, 0] = -1
    data = Data(inputs=x)
    assert probe.check_finite(model, lambda m, b: m(b), data, of="search", batch=2) is None


@pytest.mark.parametrize("bill", ["size", "bitops"])
def test_of_a_budget_above_the_original_both_bounds_are_said(
    bill: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    amount = {"size": "999MB", "bitops": "5T"}[bill]
    out = tmp_path / "run"
    assert compress("task", out, "--budget", f"{bill}={amount}", file=tiny.HERE) == 2
    said = sentence(capsys)
    assert f"--budget {bill}={amount} is more than the original itself" in said
    assert "down to" in said and "% of the original" in said
    assert not out.exists(), "nothing is left in the way of a corrected budget"
    args = ("--budget", f"{bill}={amount}", "--dry-run")
    assert compress("task", out, *args, file=tiny.HERE) == 2
    assert "more than the original" in sentence(capsys)


def test_the_original_itself_is_a_bound_and_a_byte_more_is_none() -> None:
    k = synthetic.trials(synthetic.truth((3, 3)))
    original = int(k.originals["size"])

    def limits(text: str) -> dict[str, float]:
        asked = [budget(text)]
        return setup.limits(k.space, asked, bills=k.bills, originals=k.originals)

    assert limits(f"size={original}") == limits("size=100%") == {"size": original}
    with pytest.raises(BudgetError) as error:
        limits(f"size={original + 1}")
    least = k.least()["size"]
    assert error.value.smallest == {"size": least}
    assert limits(f"size={least:.0f}") == {"size": least}


def test_budgets_that_exclude_each_other_name_the_smallest_of_each_within_the_other() -> None:
    k = synthetic.trials(synthetic.truth((3, 3, 3)), products=True)
    least = k.least()
    # bytes in one option, bit operations in the other: each is met alone, not both at once
    mixed = {name: b for name, b in k.bills.items()}
    mixed["bitops"] = _turned(mixed["size"])
    low = {"size": least["size"], "bitops": _turned_least(k.space.counts, mixed)}
    asked = [budget(f"{n}={math.ceil(v)}") for n, v in low.items()]
    originals = {n: max(b.of(p) for p in _points(k.space.counts)) for n, b in mixed.items()}
    with pytest.raises(BudgetError) as error:
        setup.limits(k.space, asked, bills=mixed, originals=originals)
    for name in low:
        assert f"the smallest {name} within the other limits" in str(error.value)
        other = next(n for n in low if n != name)
        reached = min(
            mixed[name].of(p) for p in _points(k.space.counts) if mixed[other].of(p) <= low[other]
        )
        assert math.isclose(error.value.smallest[name], reached)


def _points(counts: tuple[int, ...]) -> list[Point]:
    found: list[Point] = [()]
    for n in counts:
        found = [(*p, o) for p in found for o in range(n)]
    return found


def _turned(table: synthetic.Table) -> synthetic.Table:
    """The table with the options of every choice in the opposite order."""
    terms = tuple(replace(t, values=t.values[::-1].copy()) for t in table.terms)
    return replace(table, unit="bitop", terms=terms)


def _turned_least(counts: tuple[int, ...], bills: dict[str, synthetic.Table]) -> float:
    return min(bills["bitops"].of(p) for p in _points(counts))


@pytest.mark.parametrize("asked", [0.0, -3.0, math.nan, -math.inf])
def test_passes_that_are_none_are_refused(asked: float) -> None:
    with pytest.raises(InputError, match=r"--evaluations .* above 0"):
        setup.evaluations(asked)


def test_a_signal_that_measures_plans_is_refused_before_it_measures_what_cannot_be_paid() -> None:
    inner = synthetic.Evaluator(synthetic.truth((3, 3, 2)))
    points = [(1, 0, 0), (2, 0, 0), (0, 1, 0), (0, 2, 0), (0, 0, 1)]
    with pytest.raises(InputError, match=r"--evaluations 4\.9 is too few: .* takes at least 5 "):
        Capped(inner, most=4.9).losses(points)
    assert inner.spent == 0
    assert Capped(inner, most=5).losses(points) == inner.losses(points) and inner.spent == 5
    assert len(Capped(inner, most=5).losses(points)) == 5, "what is known is free"


def test_a_signal_that_works_by_itself_is_stopped_and_its_need_told_from_its_progress() -> None:
    inner = synthetic.Evaluator(synthetic.truth((3, 3)))
    inner.charge(10)
    capped = Capped(inner, most=20)
    with pytest.raises(InputError, match=r"takes about 50 forward passes.*allow 66"):
        for step in range(1, 11):
            capped.charge(4)  # of 40 in all, after 10 of another signal
            capped.reached(step / 10)
    assert inner.spent == 22 == capped.spent


def test_with_passes_enough_a_capped_evaluator_is_the_one_inside() -> None:
    one, two = (synthetic.Evaluator(synthetic.truth((3, 3, 2))) for _ in range(2))
    capped = Capped(one, most=math.inf)
    points = [(1, 0, 0), (2, 1, 1), (1, 0, 0)]
    assert capped.costs(points) == two.costs(points)
    assert capped.losses(points) == two.losses(points)
    capped.charge(2.5)
    two.charge(2.5)
    assert capped.spent == two.spent and capped.space is one.space
