"""Faults: the first layer of a file that computes something else, and the likely cause."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from allot.causes import Cause, cause
from allot.deploy import named_layers
from allot.onnx_graph import load_proto, tap
from allot.packed import layer_tensors
from allot.target import Target, Workload
from allot.task import Inputs, call
from allot.verify import first_difference, layer_differences

Array = NDArray[Any]
# inputs on which a fault is looked for
EXAMPLES = 32


@dataclass(frozen=True, kw_only=True)
class Fault:
    """layer: the first whose output differs, "" where none does alone.  at: "input" or "output"."""

    layer: str
    at: str
    cause: Cause

    @property
    def text(self) -> str:
        """One clause, for the end of an error."""
        if not self.layer:
            return f"likely cause {self.cause.kind}: {self.cause.text}"
        what = "what it reads differs already" if self.at == "input" else "what it computes"
        return f"likely cause {self.cause.kind} ({what}): {self.cause.text}"


_FUSION = Cause(
    kind="fusion",
    text="no layer differs when the outputs of all are asked for, which keeps the runtime from "
    "fusing across them",
)


def fault(
    onnx: bytes, deployed: nn.Module, example: Inputs, *, target: Target, workload: Workload
) -> Fault:
    """Where a file begins to differ from the deployed network, and why, told from values.

    What the first such layer reads is compared first: a quantizer before it shows there.
    """
    differences = layer_differences(onnx, deployed, example, target=target, workload=workload)
    layer = first_difference(differences)
    if not layer:
        return Fault(layer="", at="output", cause=_FUSION)
    file, names = _ends(onnx, layer_tensors(deployed)[layer])
    inputs = {"input": example} if isinstance(example, torch.Tensor) else example
    got = target.open(file, workload=workload).run({k: v.numpy() for k, v in inputs.items()})
    expected = _ran(deployed, layer, example)
    for at in ("input", "output"):
        if at in names and got[names[at]].shape == expected[at].shape:
            found = cause(expected[at], np.asarray(got[names[at]]))
            if found.kind != "none":
                return Fault(layer=layer, at=at, cause=found)
    return Fault(layer=layer, at="output", cause=_FUSION)


def _ends(onnx: bytes, tensor: str) -> tuple[bytes, dict[str, str]]:
    """The file with what a layer reads and gives as outputs, and the names of both.

    tensor: of the layer's, the one that enters last.  What is read is left out where it is an
    input of the whole network, and where a layer is not one multiplication of a tensor.
    """
    from onnx import helper

    proto = load_proto(onnx)
    _, found = tap(onnx, {"it": tensor})
    if "it" not in found:
        return onnx, {}
    made = {n.output[0]: n for n in proto.graph.node}
    names = {"output": found["it"]}
    node = made[found["it"]]
    while node.op_type == "Add" and node.input[0] in made:
        node = made[node.input[0]]
    if node.op_type in ("Conv", "Gemm", "MatMul") and node.input[0] in made:
        names["input"] = node.input[0]
    known = {x.name for x in proto.graph.output}
    new = [n for n in names.values() if n not in known]
    proto.graph.output.extend(helper.make_empty_tensor_value_info(n) for n in new)
    return bytes(proto.SerializeToString(deterministic=True)), names


def _ran(deployed: nn.Module, layer: str, example: Inputs) -> Mapping[str, Array]:
    """What a layer of the deployed network reads and gives (of one used twice: the last time)."""
    found: dict[str, Array] = {}

    def keep(module: nn.Module, args: Any, output: torch.Tensor) -> None:
        # copies: the network may change either in place
        found["input"] = args[0].detach().clone().numpy()
        found["output"] = output.detach().clone().numpy()

    hook: Callable[..., None] = keep
    handle = named_layers(deployed)[layer].register_forward_hook(hook)
    try:
        with torch.no_grad():
            call(deployed, example)
    finally:
        handle.remove()
    return found
