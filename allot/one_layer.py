"""One layer: the smallest ONNX file with one convolution or linear, for timing it alone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from allot.latency import Signature
from allot.num.blocks import WIDTHS
from allot.onnx_graph import OPSET

DOMAIN = "com.microsoft"


def input_of(s: Signature, batch: int) -> NDArray[Any]:
    """A random input of the layer: uint8 where it computes in integers, else float32."""
    rng = np.random.default_rng(0)
    shape = _shape(s, batch)
    if s.integer:
        return rng.integers(0, 256, shape).astype(np.uint8)
    return rng.standard_normal(shape).astype(np.float32)


def _shape(s: Signature, batch: int | str) -> list[Any]:
    return [batch, *s.size, s.ins] if s.op == "linear" else [batch, s.ins, *s.size]


def graph(s: Signature) -> bytes:
    """Layer, bias and ReLU; the integer form reads and writes uint8 as it does inside a network."""
    from onnx import TensorProto, helper

    kind = TensorProto.UINT8 if s.integer else TensorProto.FLOAT
    nodes, tensors = _integer(s) if s.integer else _block(s) if s.block else _float(s)
    source = "real" if s.integer else "input"
    nodes += [] if s.block else [_layer(s, source)]
    last = "sum" if s.op == "linear" else "y"
    if s.op == "linear":
        nodes.append(helper.make_node("Add", ["y", "bias"], ["sum"]))
    nodes.append(helper.make_node("Relu", [last], ["relu" if s.integer else "output"]))
    if s.integer:
        nodes.append(helper.make_node("QuantizeLinear", ["relu", "step", "zero"], ["output"]))
    proto = helper.make_graph(
        nodes,
        "layer",
        [helper.make_tensor_value_info("input", kind, _shape(s, "batch"))],
        [helper.make_tensor_value_info("output", kind, None)],
        tensors,
    )
    return _bytes(proto)


def _block(s: Signature) -> tuple[list[Any], list[Any]]:
    """A linear from integers in groups along its input, codes and scales as the operator reads."""
    from onnx import helper, numpy_helper

    bits, group, live = s.block
    kernel = min(b for b in WIDTHS if b >= bits)
    groups = -(-s.ins // group)
    rng = np.random.default_rng(1)
    values: dict[str, NDArray[Any]] = {
        "codes": rng.integers(0, 256, (s.outs, groups, group * kernel // 8)).astype(np.uint8),
        "scales": np.full((s.outs, groups), 0.01, dtype=np.float32),
        "bias": np.zeros(s.outs, dtype=np.float32),
    }
    node = helper.make_node(
        "MatMulNBits", ["input", "codes", "scales"], ["y"], domain=DOMAIN, K=s.ins, N=s.outs,
        bits=kernel, block_size=group, accuracy_level=4 if live else 0,
    )  # fmt: skip
    return [node], [numpy_helper.from_array(v, k) for k, v in values.items()]


def there_and_back(channels: int = 64, size: int = 32) -> tuple[bytes, NDArray[np.float32]]:
    """A network that makes codes of its input and floats of the codes, and an input for it."""
    from onnx import TensorProto, helper, numpy_helper

    shape = [4, channels, size, size]
    values: dict[str, NDArray[Any]] = {
        "step": np.array(0.1, dtype=np.float32),
        "zero": np.array(128, dtype=np.uint8),
    }
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "step", "zero"], ["codes"]),
        helper.make_node("DequantizeLinear", ["codes", "step", "zero"], ["output"]),
    ]
    proto = helper.make_graph(
        nodes,
        "crossing",
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["batch", *shape[1:]])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(v, k) for k, v in values.items()],
    )
    return _bytes(proto), np.random.default_rng(0).standard_normal(shape).astype(np.float32)


def _bytes(proto: Any) -> bytes:
    import onnx
    from onnx import helper

    opsets = [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]
    model = helper.make_model(proto, opset_imports=opsets, ir_version=8)
    return bytes(onnx.ModelProto.SerializeToString(model, deterministic=True))


def _layer(s: Signature, source: str) -> Any:
    from onnx import helper

    if s.op == "linear":
        return helper.make_node("MatMul", [source, "weight"], ["y"])
    top, left = s.padding
    return helper.make_node(
        "Conv",
        [source, "weight", "bias"],
        ["y"],
        strides=list(s.stride),
        pads=[top, left, top, left],
        dilations=list(s.dilation),
        group=s.ins // s.depth if s.depth else 1,
        kernel_shape=list(s.kernel),
    )


def _weight(s: Signature) -> NDArray[np.float32]:
    shape = (s.ins, s.outs) if s.op == "linear" else (s.outs, s.depth or s.ins, *s.kernel)
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


def _float(s: Signature) -> tuple[list[Any], list[Any]]:
    from onnx import numpy_helper

    values = {"weight": _weight(s), "bias": np.zeros(s.outs, dtype=np.float32)}
    return [], [numpy_helper.from_array(v, k) for k, v in values.items()]


def _integer(s: Signature) -> tuple[list[Any], list[Any]]:
    from onnx import helper, numpy_helper

    codes = (_weight(s) * 40).clip(-127, 127).astype(np.int8)
    values: dict[str, NDArray[Any]] = {
        "codes": codes,
        "scale": np.full(s.outs, 0.01, dtype=np.float32),
        "zeros": np.zeros(s.outs, dtype=np.int8),
        "bias": np.zeros(s.outs, dtype=np.float32),
        "step": np.array(0.1, dtype=np.float32),
        "zero": np.array(0, dtype=np.uint8),
    }
    rows = 1 if s.op == "linear" else 0
    nodes = [
        helper.make_node("DequantizeLinear", ["input", "step", "zero"], ["real"]),
        helper.make_node("DequantizeLinear", ["codes", "scale", "zeros"], ["weight"], axis=rows),
    ]
    return nodes, [numpy_helper.from_array(v, k) for k, v in values.items()]
