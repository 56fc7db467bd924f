"""Laws of the command line: what is printed where, what a verb gives, and that nothing is lost."""

from __future__ import annotations

import ctypes
import json
import math
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from allot import certify as certify_module
from allot import options, runtimes, setup
from allot.artefact import add_documents, check, open_artefact
from allot.cli import machine, stream, words
from allot.cli.entry import VERBS, call
from allot.errors import InputError
from allot.files import read_json, write_json
from allot.options.precision import Weight
from allot.plan import load as load_plan
from tests import tiny, toys
from tests.conftest import Finished


@pytest.fixture
def copied(finished: Finished, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished.folder, tmp_path / "run"))


def said(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a command."""
    capsys.readouterr()
    code = call([str(a) for a in args])
    out, err = capsys.readouterr()
    return code, out, err


def fresh(n: int, *, seed: int = 9, wrong: int = 0) -> dict[str, np.ndarray]:
    """Images that no step has seen, labelled by the original, `wrong` of them falsely."""
    data = tiny.samples(tiny.balanced(toys.chain()), n, seed)
    assert isinstance(data.inputs, torch.Tensor) and data.labels is not None
    labels = data.labels.clone()
    labels[:wrong] = (labels[:wrong] + 1) % 5
    return {"input": data.inputs.numpy(), "labels": labels.numpy()}


def test_with_json_stdout_is_the_summary_and_nothing_else(finished: Finished) -> None:
    assert json.loads(finished.stdout) == read_json(finished.folder / "summary.json")
    assert "harm" in finished.stderr


def test_what_c_code_prints_while_diverted_never_reaches_stdout(
    capfd: pytest.CaptureFixture[str],
) -> None:
    with stream.diverted():
        os.write(1, b"by number\n")
        ctypes.CDLL(None).printf(b"by the C library\n")
        print("by python")
    stream.out("the result")
    out, err = capfd.readouterr()
    assert out == "the result\n"
    assert all(f"by {x}" in err for x in ("number", "the C library", "python"))


@pytest.mark.parametrize(("verb", "example"), [(v.__name__, e) for v, e in VERBS])
def test_help_of_every_verb_ends_with_an_example_of_it(
    verb: str, example: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = said(capsys, verb, "--help")
    assert code == 0
    assert example.startswith(verb)
    assert " ".join(example.split()) in " ".join(out.split())


def test_no_argument_shows_the_help_with_every_verb(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = said(capsys)
    assert code == 0 and all(v.__name__ in out for v, _ in VERBS)


@pytest.mark.parametrize("args", [("frob",), ("compress",), ("apply", "x"), ("run", "x"),
                                  ("compress", "digits-resnet", "--batch", "0")])  # fmt: skip
def test_a_command_that_cannot_be_read_ends_with_code_2_and_one_line(
    args: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = said(capsys, *args)
    assert code == 2 and not out
    assert len(err.strip().splitlines()) == 1 and "--help" in err


def test_axes_are_the_modules_of_options_that_have_a_space() -> None:
    folder = Path(next(iter(options.__path__)))
    wanted = [f.stem for f in sorted(folder.glob("*.py")) if "\ndef space(" in f.read_text()]
    assert list(words.all_axes()) == wanted
    assert list(words.axes("width,precision")) == ["width", "precision"]


@pytest.mark.parametrize("text", ["tea", "", "precision,precision", "statistics"])
def test_an_axis_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError):
        words.axes(text)


def test_pins_keep_names_with_dots_and_refuse_what_is_no_pair() -> None:
    assert words.pins(["a.b.weight=W4", "c=float"]) == {"a.b.weight": "W4", "c": "float"}
    for text in ("a", "a=", "=W4"):
        with pytest.raises(InputError):
            words.pins([text])
    with pytest.raises(InputError):
        words.pins(["a=W4", "a=W5"])


def test_a_dry_run_writes_nothing_and_counts_every_plan(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    code, text, _ = said(capsys, *tiny.COMPRESS, "--dry-run", "--json", "--out", out)
    data = json.loads(text)
    assert code == 0 and not out.exists() and not list(tmp_path.iterdir())
    plans = math.prod(len(c["options"]) for c in data["choices"])
    assert math.isclose(data["plans_log10"], math.log10(plans), abs_tol=0.01)
    assert data["smallest"]["size"]["value"] > 0 and data["seconds"] > 0
    assert str(tiny.CERTIFY) in data["provable"]


def test_a_pin_and_an_exclusion_narrow_the_space(capsys: pytest.CaptureFixture[str]) -> None:
    args = ("analyze", f"{tiny.HERE}:task", "--target", "ideal", "--json")
    _, plain, _ = said(capsys, *args)
    code, text, _ = said(capsys, *args, "--pin", "conv1.weight=W5", "--exclude", r"re:^conv2\..*")
    whole = {c["site"]: c["options"] for c in json.loads(plain)["choices"]}
    found = {c["site"]: c["options"] for c in json.loads(text)["choices"]}
    assert code == 0
    assert found["conv1.weight"] == ["W5"] and len(whole["conv1.weight"]) > 1
    narrowed = {s for s in whole if len(found[s]) < len(whole[s])}
    assert narrowed == {"conv1.weight", *(s for s in whole if s.startswith("conv2."))}


def test_the_same_point_taken_again_has_the_same_bytes(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chosen = read_json(finished.folder / "summary.json")["chosen"]
    out = tmp_path / "again"
    code, _, _ = said(capsys, "apply", finished.folder, "--point", chosen, "--out", out)
    assert code == 0
    for name in ("weights.safetensors", "graph.onnx", "layout.json", "plan.json", "front.json",
                 "certificate.json"):  # fmt: skip
        assert (out / name).read_bytes() == (finished.folder / name).read_bytes(), name


def test_another_point_carries_what_the_job_stated_of_it_and_is_a_run_itself(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    front = read_json(finished.folder / "front.json")
    point = next(i for i in range(len(front["points"]))
                 if i != read_json(finished.folder / "summary.json")["chosen"])  # fmt: skip
    out = tmp_path / "other"
    code, text, _ = said(capsys, "apply", finished.folder, "--point", point, "--out", out, "--json")
    summary = json.loads(text)
    assert code == 0 and "certificate.json" in check(out)
    assert read_json(out / "certificate.json") == front["statements"][str(point)]
    assert summary["compressed"]["size"] == front["points"][point]["bills"]["size"]
    assert summary["original"]["n"] == 48, "measured on the search samples"
    assert said(capsys, "apply", finished.folder, "--point", point, "--out", out)[0] == 2
    assert said(capsys, "verify", out)[0] == 0


def test_a_point_that_was_not_certified_is_refused_or_marked(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    front = read_json(copied / "front.json")
    last = max(map(int, front["statements"]))
    del front["statements"][str(last)]
    failed = certify_module.load(front["statements"]["0"])
    front["statements"]["0"] = replace(failed, bound=50.0).dump()
    write_json(copied / "front.json", front)
    for point in (0, last):
        out = tmp_path / f"point{point}"
        code, _, err = said(capsys, "apply", copied, "--point", point, "--out", out)
        assert code == 3 and "not certified" in err and not out.exists()
    out = tmp_path / "marked"
    code, text, _ = said(
        capsys, "apply", copied, "--point", last, "--out", out, "--uncertified", "--json"
    )
    assert code == 0 and json.loads(text)["certified"] is False
    assert "NOT CERTIFIED" in json.loads(text)["notes"][0]
    assert not (out / "certificate.json").exists()
    assert said(capsys, "certify", out)[0] == 2


@pytest.mark.parametrize("point", [-1, 999])
def test_a_point_off_the_front_is_refused(
    finished: Finished, point: int, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = said(capsys, "apply", finished.folder, "--point", point)
    assert code == 2 and "its points are 0 to" in err


def test_verify_holds_for_the_run_and_fails_for_another_plan_in_its_place(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    np.savez(tmp_path / "given.npz", input=toys.images(7, seed=11).numpy())
    code, text, _ = said(capsys, "verify", copied, "--inputs", tmp_path / "given.npz", "--json")
    assert code == 0 and json.loads(text)["holds"] and json.loads(text)["n"] == 7
    plan = load_plan(read_json(copied / "plan.json"))
    coarse = {k: Weight(bits=2) if k.endswith("weight") else o for k, o in plan.options.items()}
    add_documents(copied, {"plan.json": replace(plan, options=coarse).dump()})
    code, _, err = said(capsys, "verify", copied)
    assert code == 1 and "differs" in err and "is the first layer" in err and "likely cause" in err


def test_certify_shows_the_certificate(
    finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = said(capsys, "certify", finished.folder)
    assert code == 0
    assert out.strip() == read_json(finished.folder / "certificate.json")["text"]


def test_fresh_data_prove_something_once_and_other_data_nothing(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = tmp_path / "fresh.npz"
    np.savez(data, **fresh(150))
    before = (copied / "certificate.json").read_bytes()
    code, text, _ = said(capsys, "certify", copied, "--data", data, "--json")
    statement = json.loads(text)
    assert code == 0 and statement["n"] == 150 and statement["place"] == 0
    assert (copied / "certificate.json").read_bytes() == before
    check(copied)
    code, _, err = said(capsys, "certify", copied, "--data", data, "--max-drop", "0.1")
    assert code == 3 and "not proven" in err
    np.savez(data, input=toys.images(tiny.CERTIFY, seed=3).numpy())
    code, _, err = said(capsys, "certify", copied, "--data", data)
    assert code == 2 and f"{tiny.CERTIFY} of the {tiny.CERTIFY}" in err
    np.savez(data, input=np.repeat(toys.images(5, seed=12).numpy(), 2, axis=0))
    code, _, err = said(capsys, "certify", copied, "--data", data)
    assert code == 2 and "5 samples occur more than once" in err


def test_the_exported_file_runs_without_allot_and_gives_what_run_gives(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import onnxruntime

    x = toys.images(6, seed=4).numpy()
    given, out, onnx = tmp_path / "in.npz", tmp_path / "out.npz", tmp_path / "net.onnx"
    np.savez(given, input=x)
    code, text, _ = said(capsys, "run", finished.folder, given, "--out", out, "--json")
    assert code == 0
    assert said(capsys, "export", finished.folder, onnx)[0] == 0
    session = onnxruntime.InferenceSession(onnx.read_bytes(), providers=["CPUExecutionProvider"])
    expected = session.run(None, {"input": x})[0]
    with np.load(out) as arrays:
        found = arrays["output"]
    assert np.abs(found - expected).max() < 1e-3 * np.abs(expected).max() + 1e-3
    assert json.loads(text)["likeliest"] == ["abcde"[i] for i in found.argmax(1)]


def test_inputs_that_do_not_fit_are_refused_and_nothing_is_written(
    finished: Finished, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    x = toys.images(4).numpy()
    bad: dict[str, dict[str, np.ndarray]] = {
        "takes input": {"other": x},
        "float64": {"input": x.astype(np.float64)},
        "shape": {"input": x[:, :2]},
        "not finite": {"input": np.where(x > 1, np.nan, x)},
        "empty": {"input": x[:0]},
        "plain arrays": {"input": np.array([{}], dtype=object)},
    }
    for words_wanted, named in bad.items():
        np.savez(tmp_path / "bad.npz", **named)  # type: ignore[arg-type]
        out = tmp_path / "out.npz"
        code, _, err = said(capsys, "run", finished.folder, tmp_path / "bad.npz", "--out", out)
        assert code == 2 and words_wanted in err and not out.exists()


def test_report_is_written_again_and_compares_two_runs(
    copied: Path, finished: Finished, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied / "report.html").unlink()
    page = copied / "report.html"
    code, out, _ = said(capsys, "report", copied, "--out", page)
    assert code == 0 and str(page) in out
    assert page.read_text().startswith("<!doctype html")
    code, out, _ = said(capsys, "report", copied, finished.folder)
    assert code == 0 and Path(out.removeprefix("report:").strip()).is_file()
    check(copied)


def test_doctor_lists_every_target_and_axis(capsys: pytest.CaptureFixture[str]) -> None:
    code, text, _ = said(capsys, "doctor", "--json")
    found = json.loads(text)
    assert code == 0
    assert set(found["targets"]) == {t.name for t in runtimes.ALL} >= {"openvino-cpu", "ideal"}
    assert found["axes"] == list(words.all_axes()) and found["cores"] == os.cpu_count()


def test_bench_needs_a_source_checkout(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = said(capsys, "bench", "none-such")
    assert code == 2 and "there are" in err
    monkeypatch.setattr(machine, "_ROOT", tmp_path)
    code, _, err = said(capsys, "bench", "main")
    assert code == 2 and "source checkout" in err


def test_bench_writes_the_figures_and_fails_where_one_misses_its_bar(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "coin.py").write_text("\ndef run(quick, seed): ...")
    asked: list[tuple[bool, int]] = []

    class Coin:
        @staticmethod
        def run(quick: bool, seed: int) -> dict[str, dict[str, object]]:
            asked.append((quick, seed))
            return {"heads": {"value": 0.4, "bar": 0.5, "holds": seed == 0, "n": 1}}

    monkeypatch.setattr(machine, "_ROOT", tmp_path)
    monkeypatch.setattr(machine.importlib, "import_module", lambda name: Coin)
    file = tmp_path / "figures.json"
    assert said(capsys, "bench", "coin", "--quick", "--json", file)[0] == 0
    assert read_json(file)["figures"]["heads"]["value"] == 0.4
    assert said(capsys, "bench", "coin", "--seed", "1")[0] == 1
    assert asked == [(True, 0), (False, 1)]


def test_the_job_written_down_is_the_one_asked_for(finished: Finished) -> None:
    job = setup.read_job(finished.folder)
    assert job.budgets == ("size=40%",) and job.target == "ideal" and job.max_drop == 20
    assert open_artefact(finished.folder).plan.weights == job.weights
