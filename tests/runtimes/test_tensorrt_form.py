"""Laws of TensorRT's form: a graph built by the rules keeps all, each fault breaks its own."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from allot.artefact import describe, write_artefact
from allot.cli.entry import call
from allot.deploy import deploy
from allot.onnx_graph import load_proto, to_onnx
from allot.plan import Plan
from allot.runtimes import Ideal
from allot.runtimes.tensorrt_form import Rule, tensorrt_form
from tests.deployables import exported, graph, images, net


def built(
    *, nodes: list[Any] | None = None, opset: int = 18, **changed: NDArray[Any] | np.generic
) -> bytes:
    """A convolution and a linear in signed codes around 0; `changed` constants or nodes."""
    values: dict[str, Any] = {
        "s": np.float32(0.1), "z": np.int8(0),
        "w": np.ones((4, 3, 3, 3), dtype=np.int8), "ws": np.ones(4, dtype=np.float32),
        "wz": np.zeros(4, dtype=np.int8), "b": np.zeros(4, dtype=np.float32),
        "m": np.ones((2, 4), dtype=np.int8), "ms": np.ones(2, dtype=np.float32),
        "mz": np.zeros(2, dtype=np.int8), "c": np.zeros(2, dtype=np.float32), **changed,
    }  # fmt: skip
    proto = helper.make_graph(
        nodes or steps(),
        "form",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in values.items()],
    )
    opsets = [helper.make_opsetid("", opset)]
    return helper.make_model(proto, opset_imports=opsets, ir_version=8).SerializeToString()


def steps() -> list[Any]:
    node = helper.make_node
    return [
        node("QuantizeLinear", ["input", "s", "z"], ["q"]),
        node("DequantizeLinear", ["q", "s", "z"], ["x"]),
        node("DequantizeLinear", ["w", "ws", "wz"], ["v"], axis=0),
        node("Conv", ["x", "v", "b"], ["y"]),
        node("GlobalAveragePool", ["y"], ["p"]),
        node("Flatten", ["p"], ["f"]),
        node("DequantizeLinear", ["m", "ms", "mz"], ["u"], axis=0),
        node("Gemm", ["f", "u", "c"], ["output"], transB=1),
    ]


def broken(rules: tuple[Rule, ...]) -> list[str]:
    return [r.says for r in rules if not r.holds]


def one(onnx: bytes) -> Rule:
    """The only broken rule."""
    (found,) = [r for r in tensorrt_form(onnx) if not r.holds]
    return found


def test_what_is_built_by_the_rules_keeps_them() -> None:
    assert [] == broken(tensorrt_form(built()))


def with_node(i: int, **changes: Any) -> list[Any]:
    found = steps()
    old = found[i]
    inputs = changes.pop("inputs", list(old.input))
    kept = {a.name: helper.get_attribute_value(a) for a in old.attribute} | changes
    domain = kept.pop("domain", "")
    found[i] = helper.make_node(old.op_type, inputs, list(old.output), domain=domain, **kept)
    return found


def split() -> list[Any]:
    """Codes that an operator other than DequantizeLinear reads."""
    found = steps()
    found[1:2] = [
        helper.make_node("Identity", ["q"], ["r"]),
        helper.make_node("DequantizeLinear", ["r", "s", "z"], ["x"]),
    ]
    return found


FAULTS: dict[str, tuple[bytes, str, str]] = {
    "an asymmetric tensor": (built(z=np.int8(3)), "tensors are signed", "q"),
    "an unsigned tensor": (built(z=np.uint8(0)), "tensors are signed", "q"),
    "an asymmetric weight": (built(wz=np.ones(4, dtype=np.int8)), "weights are signed", "v"),
    "an unsigned weight": (
        built(m=np.ones((2, 4), dtype=np.uint8), mz=np.zeros(2, dtype=np.uint8)),
        "weights are signed",
        "u",
    ),
    "scales along the inputs": (
        built(nodes=with_node(2, axis=1), ws=np.ones(3, np.float32), wz=np.zeros(3, np.int8)),
        "weights have one scale",
        "v",
    ),
    "a linear that is turned the other way": (
        built(nodes=with_node(7, transB=0)), "weights have one scale", "u",
    ),
    "a scale that is computed": (
        built(nodes=[helper.make_node("Abs", ["ws"], ["wa"]), *with_node(2, inputs=["w", "wa"])]),
        "scales are positive", "v",
    ),
    "a scale of zero": (built(ms=np.zeros(2, dtype=np.float32)), "scales are positive", "u"),
    "codes that others read": (built(nodes=split()), "codes are read", "q"),
    "an old version": (built(opset=12), "operators are ONNX's own", "the version"),
    "a foreign operator": (
        built(nodes=with_node(5, domain="com.microsoft")), "operators are ONNX's own", "Flatten",
    ),
}  # fmt: skip


@pytest.mark.parametrize("fault", list(FAULTS))
def test_a_fault_is_found_where_it_is(fault: str) -> None:
    onnx, says, where = FAULTS[fault]
    rules = [r for r in tensorrt_form(onnx) if r.says.startswith(says)]
    assert [(where,)] == [r.broken for r in rules]
    assert rules[0].change


@pytest.mark.parametrize("fault", ["an asymmetric tensor", "an old version", "a scale of zero"])
def test_a_fault_breaks_no_other_rule(fault: str) -> None:
    assert one(FAULTS[fault][0]).says.startswith(FAULTS[fault][1])


def test_a_bias_in_codes_is_named_by_its_layer() -> None:
    more = [helper.make_node("DequantizeLinear", ["i", "is"], ["j"])]
    onnx = built(
        nodes=[*more, *with_node(3, inputs=["x", "v", "j"])],
        i=np.zeros(4, dtype=np.int32), **{"is": np.float32(1)},
    )  # fmt: skip
    (rule,) = [r for r in tensorrt_form(onnx) if r.says == "biases are float"]
    assert ("y",) == rule.broken


def test_our_files_lack_signed_tensors_and_nothing_else() -> None:
    onnx, _ = exported()
    assert ["tensors are signed 8-bit codes with zero point 0"] == broken(tensorrt_form(onnx))


def run(at: Path, *, quantized: bool) -> Path:
    """The folder of a network, in codes or in float."""
    deployed = deploy(net(), graph())
    onnx, deployed = exported() if quantized else (to_onnx(deployed, images(2)), deployed)
    summary = {**describe(onnx), "target_part": Ideal().dump(), "workload": {}}
    documents = {
        "plan.json": Plan(graph="g", weights="w", options={}).dump(),
        "summary.json": summary,
    }
    write_artefact(at, onnx=onnx, deployed=deployed, graph=graph(), documents=documents)
    return at


def test_the_verb_writes_the_file_and_says_every_rule(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = run(tmp_path / "run", quantized=True), tmp_path / "net.onnx"
    assert 1 == call(["export", str(folder), str(out), "--tensorrt"])
    text, error = capsys.readouterr()
    assert load_proto(out.read_bytes()) == load_proto(exported()[0])
    # the terminal wraps sentences
    shown = " ".join(text.split())
    rules = tensorrt_form(exported()[0])
    assert all(" ".join(r.says.split()[:4]) in shown for r in rules)
    assert all(r.change in shown for r in rules if not r.holds)
    assert f"1 of {len(rules)} rules" in error and "tensors are signed" in error


@pytest.mark.parametrize("quantized", [True, False])
def test_as_data_the_rules_are_what_the_check_says(
    quantized: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = run(tmp_path / "run", quantized=quantized), tmp_path / "net.onnx"
    code = call(["export", str(folder), str(out), "--tensorrt", "--json"])
    said = json.loads(capsys.readouterr().out)
    rules = tensorrt_form(out.read_bytes())
    assert [(r.says, r.holds, list(r.broken)) for r in rules] == [
        (r["says"], r["holds"], r["broken"]) for r in said["rules"]
    ]
    assert code == (0 if all(r.holds for r in rules) else 1) == int(quantized)


def test_without_the_flag_nothing_is_said_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = run(tmp_path / "run", quantized=True), tmp_path / "net.onnx"
    assert 0 == call(["export", str(folder), str(out), "--json"])
    assert {"file", "bytes"} == set(json.loads(capsys.readouterr().out))


@pytest.mark.parametrize(
    ("name", "flags", "says"),
    [
        ("net.onnx", ["--tensorrt", "--integer-only"], "one of the two"),
        ("net.engine", ["--tensorrt"], "ends in .onnx"),
    ],
)
def test_what_cannot_be_written_is_refused_before_it_is(
    name: str, flags: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, out = run(tmp_path / "run", quantized=True), tmp_path / name
    assert 2 == call(["export", str(folder), str(out), *flags])
    assert says in capsys.readouterr().err and not out.exists()
