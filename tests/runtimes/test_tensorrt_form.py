"""Laws of TensorRT's form: a graph built by the rules keeps all, each fault breaks its own."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from allot.runtimes.tensorrt_form import Rule, tensorrt_form
from tests.deployables import exported


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
