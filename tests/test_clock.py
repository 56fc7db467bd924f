"""A clock times each plan once, and gives all seconds in those of one original."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from allot import clock as clocks
from allot.clock import Clock, key
from allot.runtimes import OnnxRuntime
from allot.target import Workload
from tests.small import Kit, kit

TARGET, WORK = OnnxRuntime(), Workload(batch=2)


def clock(k: Kit) -> Clock:
    return Clock(k.task, k.bank, target=TARGET, workload=WORK, memo=k.meter.memo)


def test_ratios_of_plans_in_separate_turns_are_kept_by_the_memo(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    k = kit()
    whole = tuple(int(k.graph.site(c.site).kind != "channels") for c in k.space.choices)
    plans = {key(p): k.bank.standins(k.space.options(p)) for p in (k.space.original, whole)}
    # so few bytes that every file has its turns alone with the original
    monkeypatch.setattr(clocks, "_HELD", 1)
    first = clock(k).times(plans, rounds=3)
    assert list(plans) == list(first)
    assert all(3 == t.n and t.low <= t.ratio <= t.high for t in first.values())
    assert first == clock(k).times(plans, rounds=7)


def test_an_edited_file_takes_the_inputs_of_the_task() -> None:
    k = kit()
    made = clock(k)
    x = k.task.calibrate.inputs
    assert isinstance(x, torch.Tensor)
    ran = TARGET.open(made.exported({}), workload=WORK).run({"input": x[:2].numpy()})["output"]
    with torch.no_grad():
        wanted = k.task.forward(k.task.model, x[:2])
    torch.testing.assert_close(torch.from_numpy(ran), wanted, atol=1e-4, rtol=1e-4)


def test_seconds_of_the_original_stay_those_of_the_table() -> None:
    k = kit()
    made = clock(replace_space(k))
    table, fit, _ = made.table(k.space, seed=0)
    before = made.original_s()
    made.times({"again": {}}, rounds=3)
    assert before == made.original_s()
    assert table.of(k.space.original) == pytest.approx(before, rel=0.5)
    assert min(fit.a, fit.b, fit.vain, fit.leaving) >= 0


def replace_space(k: Kit) -> Kit:
    """The kit with formats alone, so that one export is enough."""
    k.space = replace(
        k.space,
        choices=tuple(c for c in k.space.choices if k.graph.site(c.site).kind != "channels"),
    )
    return k
