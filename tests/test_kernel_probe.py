"""A table of layers is measured once, kept in a file, and tells what never pays."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from allot.errors import ArtefactError
from allot.kernel_probe import alone, never_paying, probed
from allot.latency import Entry, LatencyTable, Signature, load
from allot.memo import Memo
from allot.processor import device
from allot.runtimes import OpenVino
from allot.target import Workload
from tests.test_latency import made_up, needed, space, wide

TARGET, WORK = OpenVino(), Workload(batch=2)


def here(signatures: tuple[Signature, ...]) -> LatencyTable:
    """Made-up times, as if measured in this place."""
    return replace(
        made_up(signatures),
        device=device(), runtime=TARGET.version(), batch=WORK.batch, threads=WORK.threads,
    )  # fmt: skip


def test_a_second_job_measures_nothing_and_a_wider_space_only_what_is_new(tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    first = probed(space(), target=TARGET, workload=WORK, path=path)
    seen: list[int] = []
    again = probed(
        space(), target=TARGET, workload=WORK, path=path,
        progress=lambda done, total: seen.append(done),
    )  # fmt: skip
    assert first.digest == again.digest == load(json.loads(path.read_text())).digest
    assert not seen


def test_a_table_of_another_place_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "latency.json"
    other = replace(made_up(needed(space(), TARGET)), target=TARGET.name)
    path.write_text(json.dumps(other.dump()))
    with pytest.raises(ArtefactError, match="measure anew"):
        probed(space(), target=TARGET, workload=WORK, path=path)
    assert load(json.loads(path.read_text())).digest == other.digest


def test_widths_between_the_steps_of_a_staircase_never_pay() -> None:
    found = wide()
    signatures = needed(found, TARGET, most=10**6)
    # kernels for 32 and 64 channels; what lies between takes the larger one, and copies
    step = {s: 32 if min(s.ins, s.outs) <= 32 else 64 for s in signatures}
    odd = {s: 0.5 * (min(s.ins, s.outs) not in (32, 64)) for s in signatures}
    times = replace(
        here(signatures),
        entries={
            s: Entry(median_s=1e-6 * step[s] * (1 + odd[s]), spread_s=0.0, n=9) for s in signatures
        },
    )
    reasons = never_paying(found, target=TARGET, workload=WORK, times=times)
    struck = {label for site, label, _ in reasons if site == "a.channels"}
    labels = {o.label for o in found.choices[0].options}
    steps = {o.label for o in found.choices[0].options if round(o.ratio * 64) in (32, 64)}  # type: ignore[attr-defined]
    assert not struck & steps
    assert {x for x in labels - steps if x not in struck} <= {
        o.label
        for o in found.choices[0].options
        if o.ratio < 0.5  # type: ignore[attr-defined]
    }


def test_a_float_space_has_nothing_to_strike_out_of_its_originals() -> None:
    found = space()
    times = here(needed(found, TARGET))
    reasons = never_paying(found, target=TARGET, workload=WORK, times=times)
    assert all(label != "float" for _, label, _ in reasons)


def test_a_resumed_job_finds_the_times_it_measured(tmp_path: Path) -> None:
    path = tmp_path / "layers.jsonl"
    first = alone(space(), TARGET, WORK, Memo(path))
    seen: list[float] = []
    again = alone(space(), TARGET, WORK, Memo(path), seen.append)
    assert first.digest == again.digest
    assert not seen
    assert never_paying(space(), target=TARGET, workload=WORK, times=first) == never_paying(
        space(), target=TARGET, workload=WORK, times=again
    )


def test_what_is_pinned_is_never_struck_out() -> None:
    site = space().choices[0].site
    pinned = space().pin(site, "A8")
    # integers that take three times as long as floats
    slow = {s: Entry(median_s=3e-3 if s.integer else 1e-3, spread_s=0.0, n=9)
            for s in needed(space(), TARGET)}  # fmt: skip
    times = replace(here(tuple(slow)), entries=slow)
    struck = never_paying(pinned, target=TARGET, workload=WORK, times=times, bills=("size",))
    assert site not in {name for name, _, _ in struck}
    assert any(label == "A8" for _, label, _ in struck)


def test_a_bill_that_was_asked_for_keeps_what_is_slower_and_cheaper_in_it() -> None:
    slow = {s: Entry(median_s=3e-3 if s.integer else 1e-3, spread_s=0.0, n=9)
            for s in needed(space(), TARGET)}  # fmt: skip
    times = replace(here(tuple(slow)), entries=slow)
    labels = {
        bills: {label for _, label, _ in never_paying(
            space(), target=TARGET, workload=WORK, times=times, bills=bills)}
        for bills in (("size",), ("size", "bitops"))
    }  # fmt: skip
    assert {"A8"} == labels["size",]
    assert not labels["size", "bitops"]
