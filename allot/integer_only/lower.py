"""Lower: an exported quantized network as integer operations alone (Yao et al. 2021, HAWQ-V3).

The QDQ graph of `to_onnx` is walked once: a quantized input times integer weights gives int32
sums, and every scale between there and the next quantizer becomes one dyadic rescale.  Two things
differ from HAWQ-V3, both because they cost nothing.  What enters a residual add is not rounded to
the sum's scale first: both sides share one shift and the sum is rounded once.  And what rounding a
bias to 32 bits leaves is added in the rescale (on ResNet-20 it is most of what would differ from
the float graph).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from allot.errors import ModelError
from allot.integer_only import arithmetic, moves, nodes
from allot.integer_only.graph import IntegerGraph, Port
from allot.integer_only.layers import Weight, convolution, product
from allot.integer_only.nodes import Attributes
from allot.integer_only.values import (
    Draft,
    Floats,
    Real,
    Summand,
    as_codes,
    as_plain,
    plain,
    wide_step,
)
from allot.integer_only.walk import Codes, Outside, Size, Value, Walk
from allot.onnx_graph import load_proto


def integer_only(onnx: bytes) -> IntegerGraph:
    """The integer form of a file that `to_onnx` wrote for a deployed network.

    Inputs become uint8 codes, outputs int32 whole numbers of one scale.  Raises ModelError, which
    names the place, for an operator that has no integer form, for a weight or a tensor that a
    layer reads in float, and for sums that could overflow.
    """
    proto = load_proto(onnx)
    values: dict[str, Value] = dict(nodes.arrays(proto))
    outside = {v.name: Outside(name=v.name) for v in proto.graph.input if v.name not in values}
    walk = Walk(proto=proto, draft=Draft(shapes=nodes.shapes(proto)), values=values | outside)
    for node in proto.graph.node:
        walk.values[node.output[0]] = _value(walk, node)
    outputs = tuple(_output(walk, v.name) for v in proto.graph.output)
    return IntegerGraph(
        inputs=tuple(walk.ports.values()),
        outputs=outputs,
        operations=tuple(walk.draft.operations),
        spans=walk.draft.spans,
    )


def _value(walk: Walk, node: Any) -> Value:
    given = [walk.values.get(n) for n in node.input if n]
    if node.op_type == "Shape" or any(isinstance(v, Size) for v in given):
        first = walk.values.get(node.input[0])
        if not (node.op_type == "Reshape" and isinstance(first, Real)):
            return Size()
    constants = [v for v in given if isinstance(v, np.ndarray)]
    if len(constants) == len(given) and node.op_type != "DequantizeLinear":
        return nodes.folded(node, constants)
    if node.op_type not in _FORMS:
        raise ModelError(
            f"{node.op_type} {node.output[0]} has no integer form; there are forms of "
            f"{', '.join(sorted(_FORMS))}"
        )
    return _FORMS[node.op_type](walk, node, nodes.attributes(node))


def _dequantized(walk: Walk, node: Any, given: Attributes) -> Value:
    scale, zero = (walk.constant(n) for n in node.input[1:3])
    source = walk.values.get(node.input[0])
    assert scale is not None and zero is not None
    if isinstance(source, np.ndarray):
        if zero.any() or source.dtype != np.int8:
            raise ModelError(f"the weight {node.input[0]} is not of signed integers around 0")
        scale = np.broadcast_to(scale.astype(np.float64), source.shape[:1])
        return Weight(layer=nodes.layer_of(node.input[0]), codes=source, scale=scale)
    assert isinstance(source, Codes)
    step = np.array([source.scale])
    return Real(summands=(Summand(tensor=source.tensor, zero=source.zero, scale=step),))


def _quantized(walk: Walk, node: Any, given: Attributes) -> Value:
    source, output = walk.values.get(node.input[0]), node.output[0]
    steps, zeros = (walk.constant(n) for n in node.input[1:3])
    if steps is None or zeros is None or steps.size != 1 or zeros.dtype != np.uint8:
        raise ModelError(f"{output} is not quantized to unsigned codes of one scale")
    scale, zero = float(steps), int(zeros)
    if isinstance(source, Outside):
        return _entered(walk, source, output, scale, zero)
    real = walk.real(node.input[0], node)
    as_codes(
        walk.draft, real, output=output, scale=scale, zero=zero, span=(0, 255), where=node.input[0]
    )
    return Codes(tensor=output, scale=scale, zero=zero)


def _entered(walk: Walk, source: Outside, tensor: str, scale: float, zero: int) -> Codes:
    """The codes that a user gives in place of a float input."""
    if source.name in walk.ports:
        raise ModelError(f"the network's input {source.name} is quantized twice")
    ends = [min(max(v / scale + zero, 0), 255) for v in (source.low, source.high)]
    span = round(ends[0]), round(ends[1])
    walk.ports[source.name] = Port(
        name=source.name, tensor=tensor, shape=walk.draft.shape(source.name), scale=scale,
        zero=zero, low=span[0], high=span[1], kind="uint8",
    )  # fmt: skip
    walk.draft.spans[tensor], walk.draft.kinds[tensor] = span, "uint8"
    return Codes(tensor=tensor, scale=scale, zero=zero)


def _layer(walk: Walk, node: Any) -> tuple[Summand, Weight, Floats]:
    """What a convolution or linear takes: a quantized input, an integer weight, a bias [out]."""
    weight, source = walk.values.get(node.input[1]), walk.values.get(node.input[0])
    if not isinstance(weight, Weight) or not isinstance(source, Real) or not plain(source):
        raise ModelError(nodes.in_float(walk.proto))
    entering = source.summands[0]
    if walk.draft.kinds[entering.tensor] != "uint8":
        raise ModelError(nodes.in_float(walk.proto))
    found = walk.constant(node.input[2]) if len(node.input) > 2 else None
    rows = len(weight.codes)
    bias = np.zeros(rows) if found is None else found.astype(np.float64).reshape(rows)
    return entering, weight, bias


def _convolution(walk: Walk, node: Any, given: Attributes) -> Value:
    entering, weight, bias = _layer(walk, node)
    given = {**given, "kernel_shape": weight.codes.shape[2:]}
    return convolution(
        walk.draft, entering, weight, bias=bias, window=nodes.window(given, node),
        groups=int(given.get("group", 1)), output=node.output[0],
    )  # fmt: skip


def _product(walk: Walk, node: Any, given: Attributes) -> Value:
    factors = given.get("alpha", 1.0), given.get("beta", 1.0)
    if factors != (1.0, 1.0) or given.get("transA", 0) or not given.get("transB", 0):
        raise ModelError(f"Gemm {node.output[0]} has no integer form but as a linear layer")
    entering, weight, bias = _layer(walk, node)
    return product(walk.draft, entering, weight, bias=bias, output=node.output[0])


def _moved(walk: Walk, node: Any, given: Attributes) -> Value:
    """Of pools and of what only moves elements (`integer_moves`)."""
    inputs = node.input if node.op_type == "Concat" else node.input[:1]
    reals = [walk.real(n, node) for n in inputs]
    constants = [walk.constant(n) for n in node.input[1:]]
    return moves.MOVES[node.op_type](walk.draft, node, given, reals, constants)


_Form = Callable[[Walk, Any, Attributes], Value]
_FORMS: dict[str, _Form] = {
    "Add": arithmetic.add, "Clip": arithmetic.clip, "Conv": _convolution,
    "DequantizeLinear": _dequantized, "Gemm": _product, "Mul": arithmetic.scaled,
    "QuantizeLinear": _quantized, "Relu": arithmetic.clip,
    **dict.fromkeys(moves.MOVES, _moved),
}  # fmt: skip


def _output(walk: Walk, name: str) -> Port:
    """An output as whole numbers of one scale: its codes where it is quantized, else int32."""
    node = next(n for n in walk.proto.graph.node if name in n.output)
    real = walk.real(name, node)
    summed = plain(real) and walk.draft.kinds[real.summands[0].tensor] == "int64"
    step = wide_step(walk.draft, real) if summed else None
    one = as_plain(walk.draft, real, name=name, step=step).summands[0]
    low, high = walk.draft.spans[one.tensor]
    return Port(
        name=name, tensor=one.tensor, shape=walk.draft.shape(name), scale=float(one.scale[0]),
        zero=one.zero, low=low, high=high, kind=walk.draft.kinds[one.tensor],
    )  # fmt: skip
