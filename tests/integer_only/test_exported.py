"""Laws of the integer file of a compressed network: from its folder, by the command line.

Faults these must catch: an operator of the exporter's that has no form; a loose norm left out; a
file written although a layer is in float; a scale that is told wrongly.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import nn

from allot.artefact import describe, write_artefact
from allot.cli.entry import call
from allot.deploy import deploy
from allot.integer_only import reference
from allot.integer_only.graph import codes, reals
from allot.integer_only.lower import integer_only
from allot.onnx_graph import to_onnx
from allot.plan import Plan
from allot.runtimes import Ideal
from tests.deployables import Net, coded, edge, exported, graph, images, planned
from tests.integer_only.running import ran


def every_layer() -> Net:
    """A network with a shortcut, a loose norm and a mean, every layer quantized."""
    model = planned(bits=(8, 8))
    model._modules["head"] = edge(coded(model.head, 8), low=-4.0, high=4.0)
    return model


@functools.cache
def whole() -> tuple[bytes, nn.Module]:
    deployed = deploy(every_layer(), graph())
    return to_onnx(deployed, images(2)), deployed


def folder(at: Path, onnx: bytes, deployed: nn.Module) -> Path:
    summary = {**describe(onnx), "target_part": Ideal().dump(), "workload": {}}
    documents = {
        "plan.json": Plan(graph="g", weights="w", options={}).dump(),
        "summary.json": summary,
    }
    write_artefact(at, onnx=onnx, deployed=deployed, graph=graph(), documents=documents)
    return at


def test_a_deployed_network_in_integers_is_exact_and_near_the_simulation() -> None:
    onnx, deployed = whole()
    made = integer_only(onnx)
    x = images(200, seed=3)
    taken = codes(made.inputs[0], x.numpy())
    got = ran(made, taken)
    assert np.array_equal(reference.run(made, {"input": taken})["output"], got)
    with torch.no_grad():
        expected = deployed(x).numpy()
    off = np.abs(reals(made.outputs[0], got) - expected)
    assert off.mean() < 0.01 * np.ptp(expected) and got.dtype == np.int32
    assert (got.argmax(1) == expected.argmax(1)).mean() >= 0.97


def test_the_command_writes_the_file_and_says_what_its_codes_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = folder(tmp_path / "run", *whole())
    out = tmp_path / "net.onnx"
    assert 0 == call(["export", str(run), str(out), "--integer-only", "--json"])
    said = json.loads(capsys.readouterr().out)
    made = integer_only(whole()[0])
    assert made.ports() == {k: said[k] for k in ("inputs", "outputs")}
    assert out.stat().st_size == said["bytes"]
    x = codes(made.inputs[0], images(5).numpy())
    session = onnxruntime.InferenceSession(out.read_bytes(), providers=["CPUExecutionProvider"])
    assert np.array_equal(ran(made, x), session.run(None, {"input": x})[0])
    assert 0 == call(["export", str(run), str(out), "--integer-only"])
    assert "output: int32, value = " in capsys.readouterr().out


def test_a_network_with_a_layer_in_float_is_refused_and_no_file_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = folder(tmp_path / "run", *exported())
    out = tmp_path / "net.onnx"
    assert 2 == call(["export", str(run), str(out), "--integer-only"])
    assert "--pin head.input=A8" in capsys.readouterr().err and not out.exists()
    assert 0 == call(["export", str(run), str(out)]) and out.exists()
