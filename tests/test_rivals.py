"""Laws of the benchmark's rivals: one that is missing or fails is named, and the rest goes on.

Faults these must catch: a whole benchmark that ends because a peer is not installed; a peer left
out without a word; another interpreter taken for the one that was named.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from allot.cli import machine
from allot.cli.entry import call
from allot.errors import JobError, MissingError
from benchmarks.runtime import rivals, speed
from benchmarks.runtime.uniform import Files
from tests import small

WHY = "ONNX Runtime does not open what its quantizer wrote: no"


def python(folder: Path, *, exits: int) -> Path:
    """An interpreter that ends so, whatever it is asked; in an environment's folder."""
    path = folder / "bin" / "python"
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\necho first >&2\necho it broke >&2\nexit {exits}\n")
    path.chmod(0o755)
    return path


def test_the_interpreter_is_the_one_that_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = python(tmp_path / "env", exits=0)
    for given in (path, tmp_path / "env"):
        monkeypatch.setenv("ALLOT_NNCF", str(given))
        assert str(path) == rivals.nncf_python()


@pytest.mark.parametrize("given", ["none", "empty", "env"])
def test_an_interpreter_without_it_is_named_with_what_would_help(
    given: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "empty").mkdir()
    python(tmp_path / "env", exits=1)
    monkeypatch.setenv("ALLOT_NNCF", str(tmp_path / given))
    with pytest.raises(MissingError, match=f"{given}.* has no NNCF.*ALLOT_NNCF=PEER"):
        rivals.nncf_python()


def test_a_peer_that_fails_is_told_by_its_last_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rivals, "nncf_python", lambda: str(python(tmp_path / "env", exits=3)))
    monkeypatch.setattr(rivals, "plain", lambda task, path: path.write_bytes(b""))
    with pytest.raises(JobError, match="NNCF fails on chain: it broke"):
        rivals.nncf(small.task(), tmp_path, transformer=False)


@pytest.mark.parametrize("opens", [True, False])
def test_what_lacks_is_left_out_with_its_reason_and_the_rest_stays(
    opens: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALLOT_NNCF", str(tmp_path / "none"))
    monkeypatch.setattr(rivals, "onnxruntime", lambda task, original, folder: b"file")
    monkeypatch.setattr(rivals, "unusable", lambda onnx: "" if opens else WHY)
    files = Files(original=b"", quantized=b"", layers=0)
    found, left_out = speed._others(small.task(), files, tmp_path)
    assert found == ({speed.ORT: b"file"} if opens else {})
    assert "has no NNCF" in left_out[0] and left_out[1:] == ([] if opens else [WHY])


def test_the_table_says_why_something_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Race:
        @staticmethod
        def run(quick: bool, seed: int) -> dict[str, dict[str, object]]:
            figure = {"value": 3.0, "bar": 2.0, "holds": True, "n": 5}
            return {"speed": {**figure, "left_out": "the peer is ill"}, "other": figure}

    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "race.py").write_text("\ndef run(quick, seed): ...")
    monkeypatch.setattr(machine, "_ROOT", tmp_path)
    real = importlib.import_module

    def imported(name: str, package: str | None = None) -> object:
        return Race if name == "benchmarks.race" else real(name, package)

    monkeypatch.setattr(machine.importlib, "import_module", imported)
    assert 0 == call(["bench", "race", "--quick"])
    assert "speed: left out: the peer is ill" in capsys.readouterr().out
