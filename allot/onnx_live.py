"""Ranges found at run time, in an ONNX graph: taken over by the operators that read the tensor, or
written out in standard operators.

A tensor in 8-bit blocks goes to MatMulNBits as it is: with accuracy_level 4 that operator puts its
input on signed 8-bit integers, scale = max |x| of a block / 127, itself. With a range per token or
sample, q = x / scale is quantized by a fixed step of 1, and the scale is multiplied back behind the
product, which then is one of integers: (s q) W = s (q W). Both are exact.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from allot.deployed_blocks import DOMAIN, LIVE

# of MatMulNBits: activations in 8-bit integers
INTEGERS = 4
# ends the name of a product of whole numbers, which is no layer's output yet
UNSCALED = ".unscaled"
# of a tensor of zeros, so that nothing is divided by 0
_LEAST = 2.0**-100


def resolve(model: Any) -> None:
    """Every mark of a live range in an onnx_ir model gone, in place.

    Operators of one block size alone find ranges, since a runtime may have one setting for all.
    """
    marks = [n for n in model.graph if n.domain == DOMAIN and n.op_type == LIVE]
    ready = Counter(_group(m) for m in marks for _ in _ready(m))
    size = max(ready, key=lambda g: (ready[g], g)) if ready else 0
    for mark in marks:
        x, y = mark.inputs[0], mark.outputs[0]
        for user in _ready(mark) if _group(mark) == size else ():
            user.attributes["accuracy_level"] = _int("accuracy_level", INTEGERS)
            user.replace_input_with(0, x)
        if list(y.uses()) or y in model.graph.outputs:
            _write_out(model.graph, mark, x, y, _group(mark))
        model.graph.remove(mark, safe=True)
    model.graph.opset_imports.pop(DOMAIN, None)


def _group(mark: Any) -> int:
    return int(mark.attributes["group"].as_int())


def _ready(mark: Any) -> list[Any]:
    """Operators that can find the ranges of what is marked themselves."""
    group = _group(mark)
    return [
        user
        for user, place in mark.outputs[0].uses()
        if place == 0
        and user.op_type == "MatMulNBits"
        and int(user.attributes["block_size"].as_int()) == group
    ]


def _write_out(graph: Any, before: Any, x: Any, y: Any, group: int) -> None:
    """x with ranges of its own takes the place of y, in standard operators put before a node."""
    made = _Made(graph, before)
    rank, shape = len(x.shape), x.shape
    if group > 0:
        size = int(shape[-1])
        cut = made.add("Reshape", x, made.constant([*[0] * (rank - 1), size // group, group]))
        whole, scale = made.quantized(cut, (-1,))
        values = made.add("Mul", whole, scale)
        new = made.add("Reshape", values, made.constant([*[0] * (rank - 1), size]))
    else:
        whole, scale = made.quantized(x, (-1,) if group == 0 else tuple(range(1, rank)))
        for user, place in list(y.uses()):
            if place == 0 and user.op_type in ("MatMul", "Gemm"):
                _scaled_behind(graph, user, whole, scale)
        new = made.add("Mul", whole, scale)
    _in_place_of(y, new)


def _scaled_behind(graph: Any, user: Any, whole: Any, scale: Any) -> None:
    """The product of whole numbers, then times their scale, in place of a MatMul or Gemm."""
    made = _Made(graph, user)
    right, bias = user.inputs[1], user.inputs[2] if len(user.inputs) > 2 else None
    if user.op_type == "Gemm":
        if "transB" in user.attributes and user.attributes["transB"].as_int():
            right = made.add("Transpose", right)
    integers = made.add("MatMul", whole, right)
    integers.name = f"{user.outputs[0].name}{UNSCALED}"
    product = made.add("Mul", integers, scale)
    new = product if bias is None else made.add("Add", product, bias)
    _in_place_of(user.outputs[0], new)
    graph.remove(user, safe=True)


def _in_place_of(old: Any, new: Any) -> None:
    """Everything that reads a value reads a new one, under the old name."""
    import onnx_ir

    new.shape, new.dtype = old.shape, onnx_ir.DataType.FLOAT
    new.name, old.name = old.name, None
    old.replace_all_uses_with(new, replace_graph_outputs=True)


class _Made:
    """Nodes put into a graph before one of its nodes."""

    def __init__(self, graph: Any, before: Any) -> None:
        self._graph, self._before = graph, before

    def add(self, kind: str, *inputs: Any, **attributes: int) -> Any:
        import onnx_ir

        node = onnx_ir.node(kind, list(inputs), attributes=attributes)
        self._graph.insert_before(self._before, [node])
        return node.outputs[0]

    def constant(self, value: float | Sequence[int]) -> Any:
        """A number (float32), or whole numbers (int64)."""
        kind = np.float32 if isinstance(value, float) else np.int64
        return self._tensor(np.asarray(value, dtype=kind))

    def quantized(self, x: Any, along: tuple[int, ...]) -> tuple[Any, Any]:
        """Whole numbers in float, put on unsigned 8-bit codes and back, and their scales."""
        top = self.add("ReduceMax", self.add("Abs", x), self.constant(along), keepdims=1)
        scale = self.add("Max", self.add("Div", top, self.constant(127.0)), self.constant(_LEAST))
        step, zero = self.constant(1.0), self._tensor(np.asarray(128, dtype=np.uint8))
        codes = self.add("QuantizeLinear", self.add("Div", x, scale), step, zero)
        return self.add("DequantizeLinear", codes, step, zero), scale

    def _tensor(self, value: Any) -> Any:
        import onnx_ir

        node = onnx_ir.node("Constant", [], attributes={"value": onnx_ir.tensor(value)})
        self._graph.insert_before(self._before, [node])
        return node.outputs[0]


def _int(name: str, value: int) -> Any:
    import onnx_ir

    return onnx_ir.AttrInt64(name, value)
