"""Terms: sums in OpenVINO whose terms are rounded as the file says.

Found on OpenVINO 2026.4: where a convolution's result goes through codes into a sum, and the sum
into codes again, all is fused into one kernel, which adds the result unrounded.  A clip that
changes no value keeps them apart.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from allot.runtimes.onnx_file import parsed


def rounded_terms(onnx: bytes) -> bytes:
    """The file with such a clip before every sum that has a convolution's codes as a term."""
    proto = parsed(onnx)
    made_by = {o: n for n in proto.graph.node for o in n.output}
    clips: set[str] = set()
    for node in proto.graph.node:
        if node.op_type == "Add":
            for i, name in enumerate(node.input):
                if _is_result(name, made_by):
                    clips.add(name)
                    node.input[i] = f"{name}.term"
    return _with_clips(proto, clips) if clips else onnx


def _is_result(name: str, made_by: dict[str, Any]) -> bool:
    """Whether a tensor is what a convolution made, put into codes and read from them."""
    node: Any = None
    for kind in ("DequantizeLinear", "QuantizeLinear"):
        node = made_by.get(name)
        if node is None or node.op_type != kind:
            return False
        name = node.input[0]
    node = made_by.get(name)
    while node is not None and node.op_type in ("Relu", "Clip"):
        node = made_by.get(node.input[0])
    return node is not None and node.op_type == "Conv"


def _with_clips(proto: Any, clips: set[str]) -> bytes:
    """The graph with the clipped tensors right behind those that are clipped."""
    from onnx import helper, numpy_helper

    least = numpy_helper.from_array(np.array(np.finfo(np.float32).min), "term.least")
    nodes = []
    for node in proto.graph.node:
        # the list is a view of the graph: copied before it is emptied
        nodes.append(type(node).FromString(node.SerializeToString()))
        if node.output[0] in clips:
            name = node.output[0]
            clip = helper.make_node("Clip", [name, least.name], [f"{name}.term"])
            clip.name = f"{name}.term"
            nodes.append(clip)
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)
    proto.graph.initializer.append(least)
    return bytes(proto.SerializeToString(deterministic=True))
