"""ONNX: an integer graph as a file of standard operators on integer types, without one float."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allot.errors import MissingError
from allot.integer_only.graph import (
    Concat,
    Convolution,
    IntegerGraph,
    MaxPool,
    Operation,
    Pad,
    Port,
    Product,
    Rescale,
    Reshape,
    Slice,
    Window,
    WindowSum,
)
from allot.onnx_graph import OPSET

IR_VERSION = 10
# weights go out unsigned: kernels for unsigned times signed may saturate at 16 bits on CPUs
# without VNNI, those for unsigned times unsigned never do
_SIGNED = 128
_TYPES = {"uint8": np.uint8, "int32": np.int32, "int64": np.int64, "uint64": np.uint64}


@dataclass(kw_only=True)
class _File:
    """nodes and constants as they are written; names of both are counted."""

    nodes: list[Any] = field(default_factory=list)
    constants: list[Any] = field(default_factory=list)

    def constant(self, value: Any, kind: str) -> str:
        from onnx import numpy_helper

        name = f"constant/{len(self.constants)}"
        array = np.ascontiguousarray(np.asarray(value, dtype=_TYPES[kind]))
        self.constants.append(numpy_helper.from_array(array.reshape(np.shape(value)), name))
        return name

    def node(self, kind: str, inputs: Sequence[str], output: str = "", **given: Any) -> str:
        from onnx import helper

        name = output or f"step/{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, list(inputs), [name], **given))
        return name

    def cast(self, tensor: str, kind: str, output: str = "") -> str:
        from onnx import helper

        return self.node(
            "Cast", [tensor], output, to=helper.np_dtype_to_tensor_dtype(np.dtype(_TYPES[kind]))
        )


def to_onnx(graph: IntegerGraph) -> bytes:
    """The graph as ONNX bytes, any batch size; inputs and outputs are codes of its ports.

    What the codes stand for is in the file's metadata, key "allot", as JSON.  Raises MissingError
    without onnx.
    """
    try:
        from onnx import helper
    except ModuleNotFoundError as e:
        raise MissingError("onnx is not installed: pip install 'allot[cpu]'") from e
    file = _File()
    for p in graph.inputs:
        file.node("Identity", [p.name], p.tensor)
    for operation in graph.operations:
        _WRITERS[type(operation)](file, operation)
    _set_free(file, {p.name for p in graph.outputs if p.tensor != p.name})
    for p in (p for p in graph.outputs if p.tensor != p.name):
        file.node("Identity", [p.tensor], p.name)
    inputs, outputs = ([_described(p) for p in ports] for ports in (graph.inputs, graph.outputs))
    made = helper.make_graph(file.nodes, "integer_only", inputs, outputs, file.constants)
    model = helper.make_model(
        made, producer_name="allot", opset_imports=[helper.make_opsetid("", OPSET)]
    )
    model.ir_version = IR_VERSION
    helper.set_model_props(model, {"allot": json.dumps(graph.ports(), sort_keys=True)})
    return bytes(model.SerializeToString(deterministic=True))


def _set_free(file: _File, names: set[str]) -> None:
    """Renames tensors inside the graph that have the name of an output that is another one."""
    for node in file.nodes:
        for ends in (node.input, node.output):
            for i, name in enumerate(ends):
                ends[i] = f"{name}/inside" if name in names else name


def _described(port: Port) -> Any:
    from onnx import helper

    kind = helper.np_dtype_to_tensor_dtype(np.dtype(_TYPES[port.kind]))
    return helper.make_tensor_value_info(port.name, kind, ["batch", *port.shape])


def _unsigned(file: _File, codes: NDArray[np.int8], zero: int) -> tuple[str, str, str]:
    weight = file.constant(codes.astype(np.int16) + _SIGNED, "uint8")
    return weight, file.constant(zero, "uint8"), file.constant(_SIGNED, "uint8")


def _convolution(file: _File, op: Convolution) -> None:
    weight, *zeros = _unsigned(file, op.codes, op.zero)
    given = {"kernel_shape": op.codes.shape[2:], "group": op.groups, **_window(op.window)}
    sums = file.node("ConvInteger", [op.input, weight, *zeros], **given)
    file.node("Add", [sums, file.constant(op.bias[:, None, None], "int32")], op.output)


def _window(window: Window) -> dict[str, Any]:
    return {"strides": window.stride, "pads": window.padding, "dilations": window.dilation}


def _product(file: _File, op: Product) -> None:
    weight, *zeros = _unsigned(file, op.codes.T, op.zero)
    sums = file.node("MatMulInteger", [op.input, weight, *zeros])
    file.node("Add", [sums, file.constant(op.bias, "int32")], op.output)


def _rescale(file: _File, op: Rescale) -> None:
    """Products and their sum in int64, lifted above 0 so that the shift of uint64 is a floor."""

    def shaped(x: Any) -> NDArray[Any]:
        return np.asarray(x).reshape(-1, *[1] * (op.rank - 2)) if op.rank > 1 else np.asarray(x)

    half = np.where(op.shift > 0, np.left_shift(np.int64(1), np.maximum(op.shift - 1, 0)), 0)
    below = sum(t.zero * t.factors for t in op.terms)
    lift = np.left_shift(_LIFTED >> op.shift, op.shift)
    sums = ""
    for t in op.terms:
        factors = file.constant(shaped(t.factors), "int64")
        product = file.node("Mul", [file.cast(t.tensor, "int64"), factors])
        sums = file.node("Add", [sums, product]) if sums else product
    added = file.constant(shaped(op.offset - below + half + lift), "int64")
    whole = file.cast(file.node("Add", [sums, added]), "uint64")
    by = file.constant(shaped(op.shift), "uint64")
    floor = file.cast(file.node("BitShift", [whole, by], direction="RIGHT"), "int64")
    moved = file.node("Add", [floor, file.constant(shaped(op.zero - (lift >> op.shift)), "int64")])
    ends = [file.constant(v, "int64") for v in (op.low, op.high)]
    file.cast(file.node("Clip", [moved, *ends]), op.kind, op.output)


# above every sum (2^61 and what rounding of factors adds), and a multiple of every 2^shift
_LIFTED = np.int64(2**62)


def _max_pool(file: _File, op: MaxPool) -> None:
    given = {"kernel_shape": op.window.kernel, "ceil_mode": int(op.window.ceil)}
    file.node("MaxPool", [op.input], op.output, **given, **_window(op.window))


def _window_sum(file: _File, op: WindowSum) -> None:
    x = file.cast(op.input, "int64")
    if op.zero:
        x = file.node("Sub", [x, file.constant(op.zero, "int64")])
    top, left, bottom, right = op.window.padding
    if op.window.kernel == op.size and not any(op.window.padding):
        file.node("ReduceSum", [x, file.constant([2, 3], "int64")], op.output, keepdims=1)
        return
    if any(op.window.padding):
        pads = file.constant([0, 0, top, left, 0, 0, bottom, right], "int64")
        x = file.node("Pad", [x, pads, file.constant(0, "int64")])
    places, parts = op.window.places(op.size), []
    for i in range(op.window.kernel[0]):
        for j in range(op.window.kernel[1]):
            parts.append(_every(file, x, (i, j), op.window, places))
    sums = parts[0]
    for part in parts[1:]:
        sums = file.node("Add", [sums, part])
    file.node("Identity", [sums], op.output)


def _every(
    file: _File, x: str, first: tuple[int, int], window: Window, places: tuple[int, int]
) -> str:
    """One place of every window."""
    starts = [f * d for f, d in zip(first, window.dilation, strict=True)]
    steps = list(window.stride)
    ends = [a + s * (n - 1) + 1 for a, s, n in zip(starts, steps, places, strict=True)]
    given = [file.constant(v, "int64") for v in (starts, ends, [2, 3], steps)]
    return file.node("Slice", [x, *given])


def _slice(file: _File, op: Slice) -> None:
    given = [file.constant(v, "int64") for v in (op.starts, op.ends, op.dims, op.steps)]
    file.node("Slice", [op.input, *given], op.output)


def _pad(file: _File, op: Pad) -> None:
    pads, value = file.constant(op.pads, "int64"), file.constant(op.value, op.kind)
    file.node("Pad", [op.input, pads, value], op.output)


def _reshape(file: _File, op: Reshape) -> None:
    file.node("Reshape", [op.input, file.constant([-1, *op.shape], "int64")], op.output)


def _concat(file: _File, op: Concat) -> None:
    file.node("Concat", op.inputs, op.output, axis=op.dim)


_WRITERS: dict[type[Operation], Callable[[_File, Any], None]] = {
    Convolution: _convolution, Product: _product, Rescale: _rescale, MaxPool: _max_pool,
    WindowSum: _window_sum, Slice: _slice, Pad: _pad, Reshape: _reshape, Concat: _concat,
}  # fmt: skip
