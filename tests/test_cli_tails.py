"""Laws of `allot profile`: every condition is there, shares add up, bad input is one sentence."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from allot.cli.entry import call
from allot.cli.tails import batches
from tests import toys
from tests.conftest import Finished


def data(folder: Path, *, channels: int = 3) -> str:
    file = folder / "input.npz"
    np.savez(file, input=toys.images(64, channels=channels).numpy())
    return str(file)


def test_all_conditions_and_sources_are_told(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["profile", str(finished.folder), data(tmp_path), "--threads", "2", "--calls", "6"]
    assert 0 == call([*given, "--json"])
    found = json.loads(capsys.readouterr().out)
    conditions = {(c["threads"], c["load"]) for c in found["conditions"]}
    assert {(1, "idle"), (1, "busy"), (2, "idle"), (2, "busy")} == conditions
    assert 1 == pytest.approx(sum(s["share"] for s in found["spread"]["sources"]))
    assert 0 == call([*given, "--target", "onnxruntime-cpu"])
    out = capsys.readouterr().out
    assert "2 threads, busy" in out and "too few calls" in out and "call to call" in out


def test_inputs_that_do_not_fit_are_refused(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert 2 == call(["profile", str(finished.folder), data(tmp_path, channels=4)])
    assert 1 == len(capsys.readouterr().err.strip().splitlines())


@pytest.mark.parametrize(("n", "batch", "count"), [(64, 8, 5), (20, 8, 2), (3, 8, 1)])
def test_batches_are_whole_and_at_most_five(n: int, batch: int, count: int) -> None:
    inputs = [{"name": "x", "dtype": "float32", "shape": ["batch", 2]}]
    artefact = SimpleNamespace(summary={"inputs": inputs})
    rows = np.arange(2 * n, dtype=np.float32).reshape(n, 2)
    found = batches(artefact, {"x": rows}, batch)  # type: ignore[arg-type]
    assert [batch] * count == [len(f["x"]) for f in found]
    firsts = [f["x"][0, 0] for f in found]
    assert firsts == [2.0 * batch * i for i in range(count)]
