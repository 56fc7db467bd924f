"""Laws of a budget of bytes on the disk: a whole job keeps it, and its file is what it says.

Faults these must catch: a budget held by the table and broken by the file; codes counted before the
recovery that changed them; a bill that a target refuses; a file that opens to another network.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from allot.artefact import WEIGHTS, check, open_artefact
from allot.clock import predictions
from allot.errors import InputError, MissingError
from allot.flow import compress
from allot.job import budget, say
from allot.options import precision
from allot.runtimes.ideal import Ideal
from allot.search import Effort
from tests import small, toys

pytest.importorskip("constriction")


def test_a_job_keeps_it_and_says_what_is_on_the_disk(tmp_path: Path) -> None:
    t = small.task(toys.residual, calibrate=48, search=40, certify=300)
    out = tmp_path / "out"
    compress(
        t, budgets=("disk=24%",), max_drop=40.0, axes={"precision": precision.space},
        target=Ideal(), effort=Effort(levels=4, rounds=1, batch=2), out=out,
    )  # fmt: skip
    summary = json.loads((out / "summary.json").read_text())
    on_disk = (out / WEIGHTS).stat().st_size
    assert summary["compressed"]["disk"] == on_disk <= summary["budgets"]["disk"]["limit"]
    assert on_disk <= summary["compressed"]["size"]
    layout = json.loads((out / "layout.json").read_text())
    assert any("coder" in e for e in layout["tensors"])
    assert {"README.md", "certificate.json"} <= set(check(out))
    session = open_artefact(out).session()
    found = predictions(session, t.certify.inputs, batch=32)
    assert t.certify.labels is not None
    metric = float(t.score(found, t.certify.labels).double().mean())
    assert summary["compressed"]["metric"] == pytest.approx(metric, abs=1e-12)


def test_it_is_said_in_bytes() -> None:
    assert budget("disk=40KB").limit(1e6) == 40e3 and budget("disk=8%").limit(1e6) == 8e4
    assert say("disk", 40e3) == "40 KB"


def test_without_the_library_it_is_refused_before_anything_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking = "entropy-coded weights need constriction: pip install 'allot[entropy]'"
    monkeypatch.setattr("allot.entropy_coding.missing", lambda: lacking)
    with pytest.raises(MissingError, match=r"allot\[entropy\]"):
        compress(
            small.task(), budgets=("disk=24%",), max_drop=40.0,
            axes={"precision": precision.space}, target=Ideal(), out=tmp_path / "out",
        )  # fmt: skip
    assert not (tmp_path / "out").exists()


def test_a_misspelt_bill_is_refused() -> None:
    with pytest.raises(InputError, match="disk"):
        budget("disc=8%")
