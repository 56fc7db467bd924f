"""Files: an exported network with another mode of its pools, or with shorter floats."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from allot.onnx_graph import OPSET, load_proto
from allot.target import Target, Workload

_POOLS = ("MaxPool", "AveragePool", "LpPool")
# these give what they are given, or whole numbers in another place: nothing is rounded in them
_MOVES = frozenset(
    "Cast Clip Concat Constant ConstantOfShape DequantizeLinear Expand Flatten Gather "
    "GatherElements Identity MaxPool Pad QuantizeLinear Range Relu Reshape ScatterElements Shape "
    "Slice Split Squeeze TopK Transpose Unsqueeze Where".split()
)


def no_ceil(onnx: bytes) -> str:
    """Why turning ceil_mode of a file's pools says nothing, "" where it does."""
    from onnx import shape_inference

    proto = load_proto(onnx)
    pools = [n.output[0] for n in proto.graph.node if n.op_type in _POOLS]
    if not pools:
        return "the network has no pool"
    before = _shapes(proto)
    try:
        after = _shapes(load_proto(other_ceil(onnx)))
    except shape_inference.InferenceError:
        return "behind a pool the network takes no other size"
    if all(before.get(n) == after.get(n) for n in pools):
        return "every pool covers its input without a rest: ceil_mode changes nothing"
    if any(before.get(v.name) != after.get(v.name) for v in proto.graph.output):
        return "the network would give outputs of another size"
    if _breaks(proto, after):
        return "behind a pool the network takes no other size"
    return ""


def _shapes(proto: Any) -> dict[str, list[int]]:
    """Every shape that is known where there are two samples."""
    from onnx import shape_inference

    copy = load_proto(proto.SerializeToString())
    for value in (*copy.graph.input, *copy.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 2
    for value in copy.graph.output:
        value.type.tensor_type.ClearField("shape")
    del copy.graph.value_info[:]
    found = shape_inference.infer_shapes(copy, strict_mode=True, data_prop=True).graph
    return {
        v.name: [d.dim_value for d in v.type.tensor_type.shape.dim]
        for v in (*found.input, *found.value_info, *found.output)
    }


def _breaks(proto: Any, shapes: dict[str, list[int]]) -> bool:
    """Whether a node that changes shapes alone would lose or gain elements."""
    pairs = [
        (shapes.get(n.input[0], []), shapes.get(n.output[0], []))
        for n in proto.graph.node
        if n.op_type in ("Reshape", "Flatten") and n.input[0] in shapes
    ]
    return any(0 not in (*a, *b) and math.prod(a) != math.prod(b) for a, b in pairs)


def other_ceil(onnx: bytes) -> bytes:
    """The file with ceil_mode of every pool turned: outputs may grow or shrink by a row."""
    from onnx import helper

    proto = load_proto(onnx)
    for node in (n for n in proto.graph.node if n.op_type in _POOLS):
        was = next((a.i for a in node.attribute if a.name == "ceil_mode"), 0)
        kept = [a for a in node.attribute if a.name != "ceil_mode"]
        del node.attribute[:]
        node.attribute.extend([*kept, helper.make_attribute("ceil_mode", 1 - was)])
    # sizes that were known are so no longer
    del proto.graph.value_info[:]
    return bytes(proto.SerializeToString(deterministic=True))


def float16(onnx: bytes) -> bytes:
    """The file with every float result rounded to 11 bits of mantissa, out of range to infinity."""
    from onnx import TensorProto

    return _rounded(onnx, int(TensorProto.FLOAT16))


def bfloat16(onnx: bytes) -> bytes:
    """The file with every float result rounded to 8 bits of mantissa."""
    from onnx import TensorProto

    return _rounded(onnx, int(TensorProto.BFLOAT16))


def _rounded(onnx: bytes, kind: int) -> bytes:
    """Casts there and back behind everything that computes floats, but for sums of integer
    products that go into a quantizer: those are no floats in an integer kernel."""
    from onnx import TensorProto, helper

    proto = load_proto(onnx)
    floats = _floats(proto)
    nodes: list[Any] = []
    for node in proto.graph.node:
        name = node.output[0] if node.output else ""
        if node.op_type in _MOVES or name not in floats or _inside(proto, node):
            nodes.append(node)
            continue
        node.output[0] = f"{name}/long"
        nodes.append(node)
        nodes.append(helper.make_node("Cast", [node.output[0]], [f"{name}/short"], to=kind))
        nodes.append(helper.make_node("Cast", [f"{name}/short"], [name], to=TensorProto.FLOAT))
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    return bytes(proto.SerializeToString(deterministic=True))


def _floats(proto: Any) -> set[str]:
    from onnx import TensorProto

    values = (*proto.graph.value_info, *proto.graph.output)
    return {v.name for v in values if v.type.tensor_type.elem_type == TensorProto.FLOAT}


def _inside(proto: Any, node: Any) -> bool:
    """Whether a node is a layer from codes to codes."""
    made = {n.output[0]: n for n in proto.graph.node if n.output}
    if node.op_type not in ("Conv", "Gemm", "MatMul"):
        return False
    coded = [n in made and made[n].op_type == "DequantizeLinear" for n in node.input[:2]]
    if not all(coded):
        return False
    name = node.output[0]
    while True:
        readers = [n for n in proto.graph.node if name in n.input]
        if len(readers) != 1 or readers[0].op_type not in ("Relu", "Clip", "QuantizeLinear"):
            return False
        if readers[0].op_type == "QuantizeLinear":
            return True
        name = readers[0].output[0]


def keeps_casts(target: Target) -> bool:
    """Whether a runtime rounds where a file casts to fewer bits and back; some leave both out."""
    from onnx import TensorProto, helper

    fine = np.array([[1.0 + 2.0**-16, 3.0]], dtype=np.float32)
    nodes = [
        helper.make_node("Add", ["input", "input"], ["double"]),
        helper.make_node("Cast", ["double"], ["short"], to=TensorProto.FLOAT16),
        helper.make_node("Cast", ["short"], ["output"], to=TensorProto.FLOAT),
    ]
    ends = [
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 2])] for n in ("input", "output")
    ]
    model = helper.make_model(
        helper.make_graph(nodes, "g", ends[0], ends[1]),
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    model.ir_version = 10
    session = target.open(model.SerializeToString(), workload=Workload(batch=1))
    # a runtime that leaves the casts out may name the output otherwise
    (found,) = session.run({"input": fine}).values()
    return bool(np.asarray(found)[0, 0] == 2.0)
