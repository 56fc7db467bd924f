"""Nodes: what is read off an exported file: constants, attributes, shapes, what stayed in float."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allot.errors import ModelError
from allot.integer_only.graph import Window

Attributes = Mapping[str, Any]
_LAYERS = ("Conv", "Gemm", "MatMul")


def arrays(proto: Any) -> dict[str, NDArray[Any]]:
    """Name -> constant of the file."""
    from onnx import numpy_helper

    return {t.name: numpy_helper.to_array(t) for t in proto.graph.initializer}


def attributes(node: Any) -> Attributes:
    """Name -> attribute of a node."""
    from onnx import helper

    return {str(a.name): helper.get_attribute_value(a) for a in node.attribute}


def shapes(proto: Any) -> dict[str, tuple[int, ...]]:
    """Tensor -> its shape without the first dim, of all tensors whose other dims are fixed."""
    found = {}
    for value in (*proto.graph.input, *proto.graph.value_info, *proto.graph.output):
        dims = value.type.tensor_type.shape.dim[1:]
        if all(d.HasField("dim_value") for d in dims):
            found[value.name] = tuple(d.dim_value for d in dims)
    return found


def folded(node: Any, given: Sequence[NDArray[Any]]) -> NDArray[Any]:
    """The value of a node that reads constants alone."""
    from onnx.reference import ReferenceEvaluator

    names = [n for n in node.input if n]
    evaluated: Any = ReferenceEvaluator(node).run(None, dict(zip(names, given, strict=True)))
    return np.asarray(evaluated[0])


def window(given: Attributes, node: Any) -> Window:
    """Where the windows of a convolution or pool lie; raises ModelError where that hangs on the
    input or is not in two dims."""
    if given.get("auto_pad", b"NOTSET") != b"NOTSET" or given.get("storage_order", 0):
        raise ModelError(f"{node.op_type} {node.output[0]} pads by itself; give it fixed pads")
    kernel = tuple(int(v) for v in given.get("kernel_shape", ()))
    if len(kernel) != 2:
        raise ModelError(
            f"{node.op_type} {node.output[0]} works in {len(kernel)} dims; only 2 have an integer "
            "form"
        )
    top, left, bottom, right = (int(v) for v in given.get("pads", (0, 0, 0, 0)))
    stride, dilation = (
        tuple(int(v) for v in given.get(n, (1, 1))) for n in ("strides", "dilations")
    )
    return Window(
        kernel=(kernel[0], kernel[1]),
        stride=(stride[0], stride[1]),
        padding=(top, left, bottom, right),
        dilation=(dilation[0], dilation[1]),
        ceil=bool(given.get("ceil_mode", 0)),
    )


def layer_of(tensor: str) -> str:
    """The name of a layer, from that of its weight or codes in the file; wrappers add no part."""
    return ".".join(p for p in tensor.split(".")[:-1] if p != "inner")


def in_float(proto: Any) -> str:
    """Which layers compute in float, as one sentence with the pins that would change it."""
    made = {n.output[0]: n for n in proto.graph.node}
    pins = []
    for node in (n for n in proto.graph.node if n.op_type in _LAYERS):
        entering, weight = (made.get(x) for x in node.input[:2])
        float_weight = weight is None or weight.op_type != "DequantizeLinear"
        name = layer_of(_source(made, node.input[1]))
        if entering is None or entering.op_type not in ("DequantizeLinear", "MaxPool"):
            pins.append(f"--pin {name}.input=A8")
        if float_weight and (entering is not None and entering.op_type == "DequantizeLinear"):
            pins.append(f"--pin {name}.weight=W8")
    return (
        "integers alone need every layer quantized, its weight to 2 to 8 bits and the tensor it "
        f"reads to 4 to 8; what is in float here would be quantized by {', '.join(pins)}"
    )


def _source(made: Mapping[str, Any], tensor: str) -> str:
    """The constant that a weight comes from."""
    while tensor in made:
        tensor = made[tensor].input[0]
    return tensor
