"""Laws of jobs: budgets are read by unit or refused by name, settings survive a file.

Faults these laws must catch: KB taken for KiB; a percentage of nothing; two budgets of which one
is dropped; a setting that a resumed job may change unseen.
"""

from __future__ import annotations

import json
from dataclasses import fields, replace
from pathlib import Path

import pytest

from allot import setup
from allot.errors import InputError
from allot.files import write_json
from allot.job import Job, Taken, budget, budgets, say
from allot.recover import Recovery
from allot.rewrites.bn_folding import FoldNorms
from allot.target import Workload


@pytest.mark.parametrize(
    ("text", "limit"),
    (
        ("size=12%", 0.12 * 5000),
        ("size=100%", 5000),
        ("size=0.5 %", 25),
        ("size=40", 40),
        ("size=40B", 40),
        ("size=40KB", 40_000),
        ("size=40KiB", 40_960),
        ("size=1.5MB", 1_500_000),
        ("size=.5MiB", 524_288),
        ("size=1e3", 1000),
        ("latency=4ms", 0.004),
        ("latency=4 ms", 0.004),
        ("latency=250us", 0.00025),
        ("latency=2s", 2),
        ("latency=45%", 0.45 * 5000),
        ("bitops=1.2G", 1.2e9),
        ("bitops=3", 3),
    ),
)
def test_a_budget_is_a_share_or_an_amount(text: str, limit: float) -> None:
    found = budget(text)
    assert found.limit(5000) == pytest.approx(limit, rel=1e-12)
    assert found.bill == text.partition("=")[0] and found.relative == text.endswith("%")
    assert f"{found.bill}={found.text}" == text


@pytest.mark.parametrize(
    ("text", "says"),
    (
        ("weight=12%", "'weight' is no bill; there are size, bitops, latency"),
        ("12%", "no bill"),
        ("", "no bill"),
        ("size", "give one like size=12%"),
        ("size=", "no amount"),
        ("size=-3%", "no amount"),
        ("size=small", "no amount"),
        ("size=1,5MB", "no amount"),
        ("size=nan", "no amount"),
        ("size=12%%", "no amount"),
        ("size=100.1%", "at most 100%"),
        ("size=12ms", "'ms' is no unit of size; use % or B, KB"),
        ("size=12kb", "no unit of size"),
        ("latency=4", "no unit of latency; use % or s, ms"),
        ("latency=4MB", "no unit of latency"),
        ("bitops=2KiB", "no unit of bitops"),
    ),
)
def test_what_is_no_budget_is_refused_with_what_would_be(text: str, says: str) -> None:
    with pytest.raises(InputError) as found:
        budget(text)
    assert says in str(found.value) and f"--budget {text}" in str(found.value)


def test_two_budgets_of_one_bill_are_refused() -> None:
    with pytest.raises(InputError, match="two budgets for size"):
        budgets(["size=12%", "latency=4ms", "size=40KB"])
    assert [b.bill for b in budgets(["size=12%", "latency=4ms"])] == ["size", "latency"]
    assert budgets([]) == ()


def job() -> Job:
    return Job(
        task="file.py:make",
        graph="g",
        weights="w",
        budgets=("size=12%",),
        max_drop=1.5,
        axes=("precision", "width"),
        target="ideal",
        workload=Workload(batch=8, threads=2),
        seed=3,
        pins=(("conv1.weight", "W8"),),
        excludes=("re:head",),
    )


def test_a_job_survives_its_folder(tmp_path: Path) -> None:
    names = ("rewrites", "originals", "strong", "calibration", "struck", "prepare")
    other = {k: OTHER[k] for k in names}
    for given in (job(), replace(job(), **other)):  # type: ignore[arg-type]
        write_json(tmp_path / setup.JOB, given.dump())
        assert setup.read_job(tmp_path) == given
    assert job().differs(json.loads(json.dumps(job().dump()))) == []


def test_a_folder_without_a_job_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no run of allot"):
        setup.read_job(tmp_path)


OTHER = {
    "task": "other",
    "graph": "h",
    "weights": "v",
    "budgets": ("size=13%",),
    "max_drop": 1.0,
    "axes": ("width",),
    "target": "openvino-cpu",
    "workload": Workload(batch=9, threads=2),
    "seed": 4,
    "pins": (),
    "excludes": ("re:head", "re:conv"),
    "method": ("harm.hawq",),
    "rewrites": (FoldNorms(),),
    "originals": (("folded", (FoldNorms(),)),),
    "strong": Recovery(samples=7),
    "calibration": Taken(by="cover", index=(4, 1)),
    "struck": (("conv1.weight", "W4", "slower"),),
    "prepare": "synthesis.distilled",
}


def test_every_setting_is_tried() -> None:
    assert set(OTHER) == {f.name for f in fields(Job)}


@pytest.mark.parametrize("name", OTHER)
def test_a_job_that_differs_in_one_setting_says_in_which(name: str) -> None:
    other = replace(job(), **{name: OTHER[name]})  # type: ignore[arg-type]
    assert job().differs(json.loads(json.dumps(other.dump()))) == [name]


def test_a_setting_that_was_not_written_down_differs() -> None:
    assert "seed" in job().differs({k: v for k, v in job().dump().items() if k != "seed"})


@pytest.mark.parametrize(
    ("bill", "value", "text"),
    (
        ("size", 129_400, "129.4 KB"),
        ("size", 12_345_678, "12.35 MB"),
        ("latency", 0.0041, "4.1 ms"),
        ("bitops", 1.3e9, "1.3 G BitOPs"),
    ),
)
def test_bills_are_said_in_units_that_people_read(bill: str, value: float, text: str) -> None:
    assert say(bill, value) == text
