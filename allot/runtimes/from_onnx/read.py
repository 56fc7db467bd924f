"""Read: an ONNX file as plain nodes and tensors; what torch could not run is refused here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from allot.errors import MissingError, ModelError

OPSETS = (13, 22)
_BFLOAT16 = 16


@dataclass(frozen=True, kw_only=True)
class Node:
    """One operator. op: its type, behind its domain where that is not ONNX's own.

    inputs: names, "" where one is left out.  settings: its attributes as Python values.
    """

    op: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    name: str = ""


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """Nodes in the order of execution.  constants: name -> tensor, the same at every call."""

    nodes: tuple[Node, ...]
    constants: Mapping[str, Tensor]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    def readers(self) -> dict[str, list[Node]]:
        """Value -> the nodes that read it, a node once for each time."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in node.inputs:
                found.setdefault(name, []).append(node)
        return found

    def makers(self) -> dict[str, Node]:
        """Value -> the node that makes it."""
        return {name: node for node in self.nodes for name in node.outputs}


def read(onnx: bytes) -> Network:
    """The network of an ONNX file.

    Raises ModelError for what this importer does not know, MissingError without onnx.
    """
    proto = _parsed(onnx)
    _check(proto)
    constants = {t.name: tensor(t) for t in proto.graph.initializer}
    nodes = []
    for raw in proto.graph.node:
        node = _node(raw)
        if node.op == "Constant":
            constants[node.outputs[0]] = _constant(node)
        else:
            nodes.append(node)
    return Network(
        nodes=tuple(nodes),
        constants=constants,
        inputs=tuple(x.name for x in proto.graph.input if x.name not in constants),
        outputs=tuple(x.name for x in proto.graph.output),
    )


def _parsed(data: bytes) -> Any:
    try:
        import onnx
    except ModuleNotFoundError as e:
        raise MissingError("onnx is not installed: pip install 'allot[cpu]'") from e
    return onnx.load_model_from_string(data)


def _check(proto: Any) -> None:
    low, high = OPSETS
    for entry in proto.opset_import:
        if entry.domain in ("", "ai.onnx") and not low <= entry.version <= high:
            raise ModelError(
                f"the file is of ONNX opset {entry.version}; torch runs those from {low} to {high}"
            )
    if proto.functions:
        raise ModelError(
            f"the file calls the function {proto.functions[0].name}; inline its functions first"
        )


def _node(raw: Any) -> Node:
    from onnx import helper

    domain = "" if raw.domain in ("", "ai.onnx") else f"{raw.domain}."
    settings = {a.name: _setting(helper.get_attribute_value(a)) for a in raw.attribute}
    if settings.pop("auto_pad", "NOTSET") not in ("NOTSET", ""):
        raise ModelError(f"{raw.op_type} {raw.name!r} pads by itself (auto_pad); give its pads")
    return Node(
        op=domain + raw.op_type,
        inputs=tuple(raw.input),
        outputs=tuple(raw.output),
        settings=settings,
        name=raw.name,
    )


def _setting(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, list | tuple):
        return tuple(_setting(v) for v in value)
    kind = type(value).__name__
    if kind == "TensorProto":
        return tensor(value)
    if kind == "GraphProto":
        raise ModelError("an operator with a graph inside (If, Loop, Scan) does not run in torch")
    return value


def _constant(node: Node) -> Tensor:
    (value,) = node.settings.values()
    return value if isinstance(value, Tensor) else torch.as_tensor(value)


def tensor(proto: Any) -> Tensor:
    """A stored tensor; raises ModelError for a number format that torch lacks."""
    from onnx import numpy_helper

    values = np.array(numpy_helper.to_array(proto))
    if proto.data_type == _BFLOAT16:
        return torch.from_numpy(values.astype(np.float32)).to(torch.bfloat16)
    try:
        return torch.from_numpy(values)
    except TypeError as e:
        raise ModelError(
            f"the tensor {proto.name!r} is stored as {values.dtype}, which torch has not"
        ) from e
