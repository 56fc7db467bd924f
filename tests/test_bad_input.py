"""Bad input and interruptions: one clear sentence, the right exit code, nothing half-written."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import util
from pathlib import Path

import pytest
import torch

import allot
from allot.cli import stream
from allot.cli.entry import call
from allot.errors import ArtefactError, BudgetError, MissingError
from allot.files import load_weights, read_json
from tests import tiny
from tests.conftest import Finished

RESULTS = ("plan.json", "front.json", "certificate.json", "weights.safetensors", "graph.onnx")


def compress(name: str, out: Path, *more: str) -> int:
    """Exit code of a job on one of the tiny tasks."""
    args = [f"{tiny.HERE}:{name}", "--target", "ideal", "--max-drop", "20", "--out", str(out)]
    return call(["compress", *args, *more])


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """The last line on stderr, where an error is said; there is no traceback above it."""
    err = capsys.readouterr().err
    assert "Traceback" not in err
    return err.strip().splitlines()[-1]


def whole(folder: Path) -> None:
    """No file of a folder is half-written: none is temporary and every JSON file can be read."""
    assert not [f.name for f in folder.iterdir() if f.name.startswith(".")]
    for file in folder.glob("*.json"):
        assert read_json(file) is not None


@pytest.mark.parametrize(
    ("name", "part"),
    [
        ("empty", "the search set is empty"),
        ("not_finite", "1 samples of the search set hold NaN"),
        ("too_few_labels", "48 samples and 40 labels"),
        ("sets_of_two_shapes", "differ in shape"),
        ("two_channels", "does not take the example of shape [2, 2, 8, 8]"),
        ("shared_samples", "48 samples are in the search set and in the certify set"),
        ("nan_weights", "conv1.weight holds 1 values that are NaN"),
        ("noisy", "different outputs for the same input in eval"),
        ("no_task", "returned int; it should return an allot.Task"),
        ("with_argument", "cannot be called without arguments"),
        ("no_such_function", "has no function 'no_such_function'; it has"),
    ],
)
def test_a_task_that_cannot_be_worked_on_is_refused_before_anything_is_written(
    name: str, part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compress(name, tmp_path / "run") == 2
    assert part in sentence(capsys)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("task", ["nowhere.py:task", "own.py", "no-such-name"])
def test_a_task_that_is_not_there_is_refused(task: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(["compress", task]) == 2
    assert "FUNCTION" in sentence(capsys)


def test_a_mistake_in_the_users_own_file_keeps_its_traceback(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError, match="user's own file"):
        compress("broken", tmp_path)


@pytest.mark.parametrize(
    ("budget", "part"),
    [
        ("size=101%", "more than the original itself"),
        ("size=-3%", "no amount"),
        ("size=12parsecs", "'parsecs' is no unit"),
        ("speed=12%", "'speed' is no bill"),
        ("latency=50%", "ideal states size, bitops, memory, not latency"),
    ],
)
def test_a_budget_that_means_nothing_is_refused(
    budget: str, part: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compress("task", tmp_path / "run", "--budget", budget) == 2
    assert part in sentence(capsys)


@pytest.mark.parametrize("budget", ["size=0%", "size=2%", "bitops=0"])
def test_of_a_budget_that_no_plan_meets_the_smallest_that_one_does_is_named(
    budget: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bill = budget.partition("=")[0]
    assert compress("task", tmp_path / "run", "--budget", budget) == 2
    said = sentence(capsys)
    assert f"the smallest {bill} is" in said and "% of the original" in said
    assert not (tmp_path / "run").exists(), "nothing is left in the way of a corrected budget"
    assert compress("task", tmp_path / "dry", "--budget", budget, "--dry-run") == 2
    assert f"the smallest {bill} is" in sentence(capsys)
    assert not (tmp_path / "dry").exists()


def test_the_smallest_that_is_named_can_be_reached(tmp_path: Path) -> None:
    with pytest.raises(BudgetError) as error:
        allot.compress(
            tiny.task(), budgets=["size=1%"], target=allot.Ideal(), max_drop=20, out=tmp_path
        )
    args = ["--budget", f"size={error.value.smallest['size']:.0f}", "--dry-run"]
    assert compress("task", tmp_path / "run", *args) == 0


@pytest.mark.parametrize("drop", ["0", "-1", "101", "nan"])
def test_a_drop_that_nothing_can_prove_is_refused(
    drop: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert compress("task", tmp_path / "run", "--max-drop", drop) == 2
    assert "--max-drop" in sentence(capsys)


def test_an_unknown_layer_stays_in_float_and_is_counted_and_listed_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    code = compress("unknown_layer", out, "--axes", "precision", "--budget", "size=60%")
    assert code == 0, capsys.readouterr().err
    summary = read_json(out / "summary.json")
    found = [n for n in summary["notes"] if "Bilinear" in n]
    assert len(found) == 1 and "odd" in found[0] and "400 parameters" in found[0]
    assert ["odd", "Bilinear", 400] in summary["unknown"]
    whole(out)


def test_a_run_of_another_network_or_other_weights_is_refused(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, part in (("other_network", "another network"), ("other_weights", "other weights")):
        task = f"{tiny.HERE}:{name}"
        for verb in (["verify"], ["apply", "--point", "0", "--out", str(tmp_path / "no")]):
            assert call([verb[0], str(finished.folder), "--task", task, *verb[1:]]) == 2
            assert part in sentence(capsys)
        copied = shutil.copytree(finished.folder, tmp_path / name)
        assert compress(name, copied, "--budget", "size=40%", "--resume") == 2
        assert "differ" in sentence(capsys)
    assert not (tmp_path / "no").exists()


def test_a_folder_in_use_is_left_alone(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = tmp_path / "mine.txt"
    mine.write_text("mine")
    for folder, more in ((tmp_path, []), (tmp_path, ["--resume"]), (mine, [])):
        assert compress("task", folder, "--budget", "size=40%", *more) == 2
        assert "--out" in sentence(capsys)
    assert mine.read_text() == "mine" and list(tmp_path.iterdir()) == [mine]
    assert compress("task", finished.folder, "--budget", "size=40%") == 2
    assert "--resume" in sentence(capsys)


@pytest.mark.parametrize("name", ["weights.safetensors", "plan.json", "summary.json"])
def test_a_damaged_artefact_is_refused_by_every_verb_that_opens_it(
    name: str, finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    for verb in (["run", "in.npz"], ["export", "out.onnx"], ["verify"]):
        assert call([verb[0], str(folder), *verb[1:]]) == 2
        assert name in sentence(capsys)
    (folder / name).unlink()
    with pytest.raises(ArtefactError, match=name):
        allot.load(folder)


def test_a_pickle_given_as_weights_is_refused_unopened_with_how_to_convert_it(
    tmp_path: Path,
) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "opened"),)

    torch.save({"w": torch.zeros(2)}, tmp_path / "honest.pt")
    (tmp_path / "trap.safetensors").write_bytes(pickle.dumps(Trap()))
    for name in ("honest.pt", "trap.safetensors"):
        with pytest.raises(ArtefactError, match=r"pickle.*safetensors\.torch\.save_file"):
            load_weights(tmp_path / name)
    assert not (tmp_path / "opened").exists()


def test_a_missing_runtime_is_named_with_how_to_install_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = util.find_spec

    def without(name: str, package: str | None = None) -> object:
        return None if name == "openvino" else found(name, package)

    monkeypatch.setattr(util, "find_spec", without)
    args = [f"{tiny.HERE}:task", "--out", str(tmp_path / "run")]
    assert call(["compress", *args]) == 2
    said = sentence(capsys)
    assert "openvino" in said and "pip install" in said and not (tmp_path / "run").exists()
    with pytest.raises(MissingError):
        allot.compress(tiny.task(), out=tmp_path / "run")
    assert call(["doctor", "--json"]) == 0
    assert "pip install" in json.loads(capsys.readouterr().out)["targets"]["openvino-cpu"]["lacks"]


def test_without_a_certified_plan_front_and_report_are_written_and_no_artefact(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    more = ["--budget", "size=40%", "--max-drop", "0.1", "--axes", "precision", "--json"]
    assert compress("unlabelled", out, *more) == 3
    text, err = capsys.readouterr()
    said = err.strip().splitlines()[-1]
    assert "is proven to lose at most 0.1 points" in said and "Allow --max-drop" in said
    assert json.loads(text)["compressed"] is None
    assert {f.name for f in out.iterdir()} >= {"front.json", "report.html", "summary.json"}
    assert not {f.name for f in out.iterdir()} & {"artefact.json", "weights.safetensors"}
    whole(out)
    assert call(["run", str(out), "in.npz"]) == 2
    assert "no finished artefact" in sentence(capsys)
    assert call(["apply", str(out), "--point", "0", "--out", str(tmp_path / "no")]) == 3
    assert not (tmp_path / "no").exists()


@contextmanager
def stopping(stage: str) -> Iterator[stream.Report]:
    """Progress that is interrupted as by Ctrl-C when a stage begins, or within it."""

    def report(name: str, share: float) -> None:
        if name == stage and (share > 0.4 or stage in ("trace", "certify", "export")):
            raise KeyboardInterrupt

    yield report


KILLED = """
import os, signal, sys
import torch
import allot
from tests import tiny
torch.set_num_threads(1)
stage, least, out, source = sys.argv[1:]
def report(name, share):
    if name == stage and share >= float(least):
        os.kill(os.getpid(), signal.SIGKILL)
allot.flow.compress(
    tiny.task(), budgets=["size=40%"], max_drop=20, axes=allot.AXES, target=allot.Ideal(), out=out,
    checked_in=(allot.OnnxRuntime(),), source=source, report=report, resume=True,
)
"""


def killed(stage: str, share: float, out: Path) -> int:
    """What a job killed at a stage returns."""
    args = [sys.executable, "-c", KILLED, stage, str(share), str(out), f"{tiny.HERE}:task"]
    root = Path(__file__).parents[1]
    return subprocess.run(args, cwd=root, capture_output=True, check=False).returncode


def test_a_job_killed_and_stopped_at_every_stage_goes_on_to_the_identical_result(
    finished: Finished,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "run"
    command = [*tiny.COMPRESS, "--out", str(out)]
    for stage, share in (("harm", 0.5), ("search", 0.4), ("certify", 0.0)):
        assert killed(stage, share, out) == -signal.SIGKILL
        assert not (out / "artefact.json").exists()
        whole(out)
    for stage in ("trace", "calibrate", "harm", "search", "finalists", "certify", "export"):
        with monkeypatch.context() as patch:
            patch.setattr(stream, "progress", lambda stage=stage: stopping(stage))
            assert call([*command, "--resume"]) == 130, stage
        assert sentence(capsys).endswith("--resume")
        assert not (out / "artefact.json").exists()
        whole(out)
    assert call([*command, "--resume"]) == 0
    for name in RESULTS:
        assert (out / name).read_bytes() == (finished.folder / name).read_bytes(), name


def test_a_finished_job_resumed_has_the_identical_result(
    finished: Finished, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(finished.folder, tmp_path / "run"))
    assert call([*tiny.COMPRESS, "--out", str(out), "--resume"]) == 0
    for name in RESULTS:
        assert (out / name).read_bytes() == (finished.folder / name).read_bytes(), name


def test_a_termination_is_taken_like_ctrl_c_and_says_how_to_go_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    command = [sys.executable, "-m", "allot", *tiny.COMPRESS, "--out", str(out)]
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    with subprocess.Popen(
        command, cwd=root, env=environment, stderr=subprocess.PIPE, text=True
    ) as job:
        assert job.stderr is not None
        line = job.stderr.readline()
        job.send_signal(signal.SIGTERM)
        err = line + job.stderr.read()
    assert job.returncode == 130, err
    assert "Traceback" not in err and err.strip().endswith("--resume")
