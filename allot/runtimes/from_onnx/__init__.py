"""From ONNX: the graphs that allot exports, as torch programs."""

from __future__ import annotations

from torch import fx

from allot.runtimes.from_onnx.build import build
from allot.runtimes.from_onnx.read import Network as Network
from allot.runtimes.from_onnx.read import Node as Node
from allot.runtimes.from_onnx.read import read


def imported(onnx: bytes, *, device: str = "cpu") -> fx.GraphModule:
    """The network of an ONNX file: positional inputs and a tuple of outputs in the file's order.

    Raises ModelError that names the operator, or the setting of one, which does not run in torch.
    """
    return build(read(onnx), device=device)
