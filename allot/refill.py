"""Refill: the file of a plan from a template, edited in its ONNX form."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from allot.deploy import named_layers, original_name
from allot.deployed import EdgeQuant, ExpandedLayer, FloatLayer
from allot.onnx_graph import load_proto

# module and role of a boundary
Edge = tuple[str, str]


def refilled(
    onnx_file: bytes,
    deployed: nn.Module,
    *,
    names: Mapping[str, str],
    marks: Mapping[Edge, float],
    quantizers: Mapping[Edge, EdgeQuant],
) -> bytes:
    """A template's file with the weights of a deployed plan, and its quantizers alone.

    names: of a tensor in the original network -> in the file.  marks: of every edge, the scale by
    which its operators are known there.  quantizers: those that the plan has.
    """
    import onnx
    import onnx_ir
    import onnx_ir.passes.common as passes

    model = onnx_ir.from_proto(load_proto(onnx_file))
    values = model.graph.initializers
    for name, layer in named_layers(deployed).items():
        if isinstance(layer, FloatLayer | ExpandedLayer):
            _expand(model, names[f"{name}.codes"], layer.weight.numpy())
    for path, tensor in deployed.state_dict().items():
        held = values.get(names.get(original_name(deployed, path), ""))
        if held is not None:
            held.const_value = onnx_ir.tensor(tensor.numpy(), name=held.name)
    _quantize(model, marks, quantizers)
    both = (passes.CommonSubexpressionEliminationPass(), passes.RemoveUnusedNodesPass())
    onnx_ir.passes.Sequential(*both)(model)
    return onnx.ModelProto.SerializeToString(onnx_ir.to_proto(model), deterministic=True)


def _expand(model: Any, codes: str, weight: NDArray[Any]) -> None:
    """Puts a float weight in the place of a dequantized one, in place."""
    for node in [use.node for use in model.graph.initializers[codes].uses()]:
        held = _constant(model, f"{codes}.float", weight)
        node.outputs[0].replace_all_uses_with(held)
        model.graph.remove(node, safe=True)


def _quantize(
    model: Any, marks: Mapping[Edge, float], quantizers: Mapping[Edge, EdgeQuant]
) -> None:
    """Gives marked edges their grids, and takes out those that stay float, in place."""
    edges = {scale: edge for edge, scale in marks.items()}
    shared: dict[tuple[str, float], Any] = {}

    def constant(kind: str, value: NDArray[Any]) -> Any:
        # one for all that are equal: of one tensor then remains one quantizer
        key = (kind, value.item())
        if key not in shared:
            shared[key] = _constant(model, f"{kind}.{len(shared)}", value)
        return shared[key]

    for node, mark in list(_marked(model, set(edges))):
        quantizer = quantizers.get(edges[mark])
        if quantizer is None:
            _bypass(model, node)
            continue
        node.replace_input_with(1, constant("scale", np.array(quantizer.scale, dtype=np.float32)))
        node.replace_input_with(2, constant("zero", np.array(quantizer.zero_point, np.uint8)))


def _marked(model: Any, marks: set[float]) -> Iterator[tuple[Any, float]]:
    """Quantizers and dequantizers of marked edges, in order."""
    for node in model.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            scale = node.inputs[1].const_value
            if scale is not None and scale.size == 1 and float(scale.numpy()) in marks:
                yield node, float(scale.numpy())


def _bypass(model: Any, node: Any) -> None:
    """Takes a node out, its input in the place of its output, in place."""
    source, made = node.inputs[0], node.outputs[0]
    outputs = model.graph.outputs
    for i, x in enumerate(outputs):
        if x is made:
            # the file's output keeps its name
            source.name, made.name = made.name, f"{made.name}.quantized"
            source.shape, source.dtype = made.shape, made.dtype
            outputs[i] = source
    made.replace_all_uses_with(source)
    model.graph.remove(node, safe=True)


def _constant(model: Any, name: str, value: NDArray[Any]) -> Any:
    import onnx_ir

    tensor = onnx_ir.tensor(value, name=name)
    kind, shape = onnx_ir.TensorType(tensor.dtype), onnx_ir.Shape(value.shape)
    held = onnx_ir.Value(name=name, shape=shape, type=kind, const_value=tensor)
    model.graph.register_initializer(held)
    return held
