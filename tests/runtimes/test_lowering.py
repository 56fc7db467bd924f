"""Laws of the lowering: int8 operators compute what the stored graph says, to a step."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from allot.onnx_graph import load_proto
from allot.runtimes.lowering import lower
from tests.runtimes.quantized import images, quantized

Arrays = dict[str, NDArray[Any]]


def run(onnx: bytes, inputs: Arrays, outputs: list[str] | None = None) -> list[NDArray[Any]]:
    """Every operator as it stands, nothing fused."""
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    settings.intra_op_num_threads, settings.log_severity_level = 1, 3
    return onnxruntime.InferenceSession(onnx, settings).run(outputs, inputs)  # type: ignore[no-any-return]


def operators(onnx: bytes) -> Counter[str]:
    return Counter(n.op_type for n in load_proto(onnx).graph.node)


def codes(onnx: bytes) -> list[str]:
    """Names of all tensors of codes that the stored graph computes."""
    return [n.output[0] for n in load_proto(onnx).graph.node if n.op_type == "QuantizeLinear"]


def opened(onnx: bytes, names: list[str]) -> bytes:
    """The file with further outputs."""
    proto = load_proto(onnx)
    proto.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in names)
    return proto.SerializeToString()


@pytest.mark.parametrize("name", ["sums", "mixed"])
def test_every_code_is_that_of_the_stored_graph_or_its_neighbour(name: str) -> None:
    onnx = quantized(name)[-1]
    names, x = codes(onnx), {"input": images(name, 8, 7).numpy()}
    stored = run(opened(onnx, names), x, names)
    lowered = run(lower(opened(onnx, names)), x, names)
    for a, b in zip(stored, lowered, strict=True):
        difference = np.abs(a.astype(int) - b.astype(int))
        assert difference.max() <= 1 and (difference > 0).mean() < 0.01


@pytest.mark.parametrize("name", ["sums", "mixed"])
def test_the_answers_are_the_simulations(name: str) -> None:
    planned, _, onnx = quantized(name)
    x = images(name, 200, 8)
    (got,) = run(lower(onnx), {"input": x.numpy()})
    expected = planned(x).numpy()
    assert (got.argmax(1) == expected.argmax(1)).mean() >= 0.99
    assert np.abs(got - expected).max() < 0.05 * np.abs(expected).max()


def test_convolutions_sums_and_linears_are_int8_where_both_ends_are_codes() -> None:
    found = operators(lower(quantized("sums")[-1]))
    # the stem reads three channels and is faster in float; the last sum goes into a mean
    assert found["QLinearConv"] == 4 and found["Conv"] == 1
    assert found["QLinearAdd"] == 1 and found["MatMulIntegerToFloat"] == 1
    found = operators(lower(quantized("mixed")[-1]))
    assert found["QLinearConv"] == 3 and found["Conv"] == 0
    assert found["MatMulIntegerToFloat"] == 3 and found["MatMul"] == found["Gemm"] == 0


@pytest.mark.parametrize("name", ["sums", "mixed"])
def test_no_weight_is_expanded_at_a_call(name: str) -> None:
    proto = load_proto(lower(quantized(name)[-1]))
    constants = {t.name for t in proto.graph.initializer}
    expanded = [n for n in proto.graph.node if n.op_type == "DequantizeLinear"]
    assert not any(n.input[0] in constants for n in expanded)


@pytest.mark.parametrize("name", ["sums", "mixed"])
def test_lowering_again_changes_nothing(name: str) -> None:
    once = lower(quantized(name)[-1])
    assert operators(lower(once)) == operators(once)


def test_a_float_graph_stays_as_it_is() -> None:
    onnx = chain([helper.make_node("Relu", ["x"], ["y"])])
    x = {"codes": np.arange(256, dtype=np.uint8).reshape(1, 4, 8, 8)}
    assert run(onnx, x)[0].tobytes() == run(lower(onnx), x)[0].tobytes()


def chain(nodes: list[Any], *, zero: int = 7, constants: Arrays | None = None) -> bytes:
    """codes [n, c, h, w] -> x -> nodes -> y -> result, on two grids of one zero point."""
    values = {
        "s": np.float32(0.05), "z": np.uint8(zero), "t": np.float32(0.04), **(constants or {})
    }  # fmt: skip
    whole = [
        helper.make_node("DequantizeLinear", ["codes", "s", "z"], ["x"]),
        *nodes,
        helper.make_node("QuantizeLinear", ["y", "t", "z"], ["result"]),
    ]
    proto = helper.make_graph(
        whole,
        "chain",
        [helper.make_tensor_value_info("codes", TensorProto.UINT8, ["n", "c", "h", "w"])],
        [helper.make_tensor_value_info("result", TensorProto.UINT8, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in values.items()],
    )
    opsets = [helper.make_opsetid("", 18)]
    return helper.make_model(proto, opset_imports=opsets, ir_version=8).SerializeToString()


PASSING: dict[str, tuple[list[Any], Arrays]] = {
    "relu": ([helper.make_node("Relu", ["c"], ["y"])], {}),
    "clip": (
        [helper.make_node("Clip", ["c", "low", "high"], ["y"])],
        {"low": np.float32(-0.11), "high": np.float32(1.13)},
    ),
    "pool": (
        [
            helper.make_node(
                "MaxPool", ["c"], ["y"], kernel_shape=[3, 3], pads=[1] * 4, strides=[2, 2]
            )
        ],
        {},
    ),
    "slice": (
        [helper.make_node("Slice", ["c", "from", "to", "axes", "steps"], ["y"])],
        {
            "from": np.array([4, 0]), "to": np.array([9, 9]), "axes": np.array([1, -1]),
            "steps": np.array([1, 2]),
        },
    ),
    "pad": (
        [helper.make_node("Pad", ["c", "pads"], ["y"])],
        {"pads": np.array([0, 1, 0, 2, 0, 3, 1, 0])},
    ),
    "transpose": ([helper.make_node("Transpose", ["c"], ["y"], perm=[0, 2, 1, 3])], {}),
    "several": (
        [
            helper.make_node("Relu", ["c"], ["r"]),
            helper.make_node("MaxPool", ["r"], ["p"], kernel_shape=[2, 2]),
            helper.make_node("Transpose", ["p"], ["y"], perm=[0, 3, 2, 1]),
        ],
        {},
    ),
}  # fmt: skip


def weights(out: int, ins: int, size: int, *, spread: float = 1.0) -> Arrays:
    rng = np.random.default_rng(3)
    return {
        "w": rng.integers(-127, 128, (out, ins, size, size)).astype(np.int8),
        "ws": rng.uniform(0.0005, 0.002, out).astype(np.float32),
        "wz": np.zeros(out, dtype=np.int8),
        "b": (spread * rng.normal(size=out)).astype(np.float32),
    }


def convolution(result: str = "c", **attributes: Any) -> list[Any]:
    return [
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["v"], axis=0),
        helper.make_node("Conv", ["x", "v", "b"], [result], **attributes),
    ]


def inputs(ins: int = 8, side: int = 9) -> Arrays:
    rng = np.random.default_rng(5)
    return {"codes": rng.integers(0, 256, (2, ins, side, side)).astype(np.uint8)}


@pytest.mark.parametrize("zero", [0, 7])
@pytest.mark.parametrize("passing", list(PASSING))
def test_what_lies_behind_a_convolution_is_done_on_codes(passing: str, zero: int) -> None:
    nodes, constants = PASSING[passing]
    onnx = chain(
        [*convolution(pads=[1] * 4), *nodes], zero=zero, constants={**weights(8, 8, 3), **constants}
    )
    lowered = lower(onnx)
    assert operators(lowered)["QLinearConv"] == 1
    assert operators(lowered)["QuantizeLinear"] == operators(lowered)["DequantizeLinear"] == 0
    a, b = run(onnx, inputs())[0].astype(int), run(lowered, inputs())[0].astype(int)
    assert a.shape == b.shape and np.abs(a - b).max() <= 1 and (a != b).mean() < 0.02


@pytest.mark.parametrize("zero", [0, 7])
@pytest.mark.parametrize("passing", [p for p in PASSING if p != "clip"])
def test_what_lies_before_a_convolution_is_done_on_codes(passing: str, zero: int) -> None:
    nodes, constants = PASSING[passing]
    before = [n for n in nodes]
    renamed = []
    for n in before:
        new = type(n).FromString(n.SerializeToString())
        new.input[0] = {"c": "x"}.get(new.input[0], new.input[0])
        new.output[0] = {"y": "u"}.get(new.output[0], new.output[0])
        renamed.append(new)
    layer = convolution(result="y", group=1)
    layer[1].input[0] = "u"
    channels = {"pad": 12, "transpose": 9, "slice": 4}.get(passing, 8)
    held = {**weights(6, channels, 3), **constants}
    onnx = chain([*renamed, *layer], zero=zero, constants=held)
    lowered = lower(onnx)
    assert operators(lowered)["QLinearConv"] == 1 and operators(lowered)["DequantizeLinear"] == 0
    a, b = run(onnx, inputs())[0].astype(int), run(lowered, inputs())[0].astype(int)
    assert a.shape == b.shape and np.abs(a - b).max() <= 1 and (a != b).mean() < 0.02


def test_a_bias_that_the_sums_cannot_hold_keeps_the_layer_in_float() -> None:
    for held in (
        {"b": np.full(8, 1e6, dtype=np.float32)},  # 1e6 / (0.05 * 0.001) is above 2^31
        {"ws": np.full(8, 0.5, dtype=np.float32)},  # a unit of the sums is most of a step
    ):
        onnx = chain(convolution("y", pads=[1] * 4), constants={**weights(8, 8, 3), **held})
        lowered = lower(onnx)
        assert operators(lowered)["QLinearConv"] == 0
        np.testing.assert_array_equal(run(onnx, inputs())[0], run(lowered, inputs())[0])


def test_a_result_that_others_read_too_stays_float() -> None:
    nodes = [*convolution(pads=[1] * 4), helper.make_node("Add", ["c", "c"], ["y"])]
    onnx = chain(nodes, constants=weights(8, 8, 3))
    lowered = lower(onnx)
    assert operators(lowered)["QLinearConv"] == 0
    np.testing.assert_array_equal(run(onnx, inputs())[0], run(lowered, inputs())[0])


@pytest.mark.parametrize("turned", [True, False])
@pytest.mark.parametrize("rank", [2, 3])
def test_a_linear_is_exact_but_for_float_rounding(turned: bool, rank: int) -> None:
    rng = np.random.default_rng(0)
    codes = rng.integers(-127, 128, (6, 12) if turned else (12, 6)).astype(np.int8)
    dim = 0 if turned else 1
    values = {
        "s": np.float32(0.02), "z": np.uint8(100), "w": codes,
        "ws": rng.uniform(0.001, 0.01, 6).astype(np.float32), "wz": np.zeros(6, dtype=np.int8),
        "b": rng.normal(size=6).astype(np.float32),
    }  # fmt: skip
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "s", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "s", "z"], ["x"]),
        helper.make_node("DequantizeLinear", ["w", "ws", "wz"], ["v"], axis=dim),
    ]
    if turned:
        nodes.append(helper.make_node("Transpose", ["v"], ["m"], perm=[1, 0]))
    nodes += [
        helper.make_node("MatMul", ["x", "m" if turned else "v"], ["p"]),
        helper.make_node("Add", ["p", "b"], ["output"]),
    ]
    shape = ["n", 12] if rank == 2 else ["n", 4, 12]
    proto = helper.make_graph(
        nodes,
        "linear",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(v), k) for k, v in values.items()],
    )
    opsets = [helper.make_opsetid("", 18)]
    onnx = helper.make_model(proto, opset_imports=opsets, ir_version=8).SerializeToString()
    lowered = lower(onnx)
    assert operators(lowered)["MatMulIntegerToFloat"] == 1 and operators(lowered)["MatMul"] == 0
    x = {"input": rng.normal(size=(5, 12) if rank == 2 else (5, 4, 12)).astype(np.float32)}
    torch.testing.assert_close(
        torch.from_numpy(run(lowered, x)[0]),
        torch.from_numpy(run(onnx, x)[0]),
        rtol=1e-5,
        atol=1e-5,
    )
