"""Torch kernels: oneDNN's own layers on the CPU, int8 and float, with weights packed once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from allot.runtimes.from_onnx.build import OPERATORS as PLAIN
from allot.runtimes.from_onnx.build import folded
from allot.runtimes.from_onnx.fused import fused
from allot.runtimes.from_onnx.integer import Codes, IntegerLayer, joined, needed
from allot.runtimes.from_onnx.layers import even
from allot.runtimes.from_onnx.read import Network, Node

Ints = Sequence[int]


def lowered(network: Network, *, compiled: bool = False) -> Network:
    """The network with integer layers on oneDNN's kernels, float linears on packed weights,
    float convolutions with channels last, and codes by plain numbers.

    compiled: codes are made by operators that torch.compile joins with their neighbours.
    """
    network = joined(network, _integer)
    network = fused(folded(needed(network)))
    nodes, constants = [], dict(network.constants)
    for node in network.nodes:
        # torch.compile packs weights itself
        made = (None if compiled else _float(node, constants)) or coding(
            node, constants, compiled=compiled
        )
        nodes.append(made[0] if made else node)
        constants.update(made[1] if made else {})
    return needed(replace(network, nodes=tuple(nodes), constants=constants))


def _integer(layer: IntegerLayer) -> tuple[Node, Mapping[str, Tensor]] | None:
    signed = layer.x.kind == torch.int8 and layer.node.op == "Conv"
    if signed or (layer.out is not None and layer.out.kind != torch.uint8):
        return None
    settings = {"x_scale": layer.x.scale, "x_zero": layer.x.zero, **_ending(layer)}
    if layer.node.op == "Conv":
        placed = _placed(layer)
        if placed is None:
            return None
        x = (layer.scale, layer.x.scale, layer.x.zero)
        packed = torch.ops.onednn.qconv_prepack(layer.weight, *x, *placed.values(), None)
        settings |= placed
    else:
        packed = torch.ops.onednn.qlinear_prepack(layer.weight, None)
    name = layer.node.outputs[0]
    zero = torch.zeros(len(layer.weight), dtype=torch.int32)
    constants = {f"{name}/packed": packed, f"{name}/scale": layer.scale, f"{name}/zero": zero}
    inputs = [layer.x.name, *constants]
    if layer.bias is not None:
        constants[f"{name}/bias"] = layer.bias.float().contiguous()
        inputs.append(f"{name}/bias")
    op = "allot.Conv8" if layer.node.op == "Conv" else "allot.Linear8"
    return _node(op, inputs, layer.result, settings), constants


def _placed(layer: IntegerLayer) -> dict[str, Any] | None:
    """Stride, padding, dilation and groups as oneDNN takes them; None where it does not."""
    given = layer.node.settings
    padding = even(given.get("pads"), 2)
    if layer.weight.dim() != 4 or padding is None:
        return None
    return {
        "stride": list(given.get("strides", (1, 1))),
        "padding": list(padding),
        "dilation": list(given.get("dilations", (1, 1))),
        "groups": given.get("group", 1),
    }


def _ending(layer: IntegerLayer) -> dict[str, Any]:
    """What the kernel does with its sums: bounds, and the codes or floats that it writes."""
    cut, bounds = "none", []
    if layer.low == 0 and layer.high is None:
        cut = "relu"
    elif layer.low is not None:
        cut, bounds = "hardtanh", [layer.low, layer.high]
    out = layer.out or Codes(name="", scale=1.0, zero=0, kind=torch.float32)
    return {"cut": cut, "bounds": bounds, "scale": out.scale, "zero": out.zero, "kind": out.kind}


def _node(op: str, inputs: Sequence[str], output: str, settings: Mapping[str, Any]) -> Node:
    return Node(op=op, inputs=tuple(inputs), outputs=(output,), settings=settings, name=output)


def _float(node: Node, constants: Mapping[str, Tensor]) -> tuple[Node, Mapping[str, Tensor]] | None:
    """A linear with its weight packed; a convolution with channels last."""
    weight = constants.get(node.inputs[1]) if len(node.inputs) > 1 else None
    if weight is None or weight.dtype != torch.float32:
        return None
    name = f"{node.outputs[0]}/packed"
    if node.op == "Conv" and weight.dim() == 4:
        last = weight.contiguous(memory_format=torch.channels_last)
        inputs = (node.inputs[0], name, *node.inputs[2:])
        return replace(node, inputs=inputs), {name: last}
    rows = _rows(node, weight, constants)
    if rows is None:
        return None
    packed = torch.ops.mkldnn._reorder_linear_weight(rows.contiguous(), None)
    inputs = (node.inputs[0], name, *node.inputs[2:])
    return _node("allot.Linear", inputs, node.outputs[0], {}), {name: packed}


def _rows(node: Node, weight: Tensor, constants: Mapping[str, Tensor]) -> Tensor | None:
    """The weight [out, in] of a MatMul or Gemm that is a linear; None where it is none."""
    if node.op == "MatMul" and weight.dim() == 2:
        return weight.t()
    if node.op != "Gemm" or node.settings.get("transA", 0):
        return None
    plain = node.settings.get("alpha", 1.0) == node.settings.get("beta", 1.0) == 1
    bias = constants.get(node.inputs[2]) if len(node.inputs) > 2 else None
    if not plain or (len(node.inputs) > 2 and (bias is None or bias.dim() != 1)):
        return None
    return weight if node.settings.get("transB", 0) else weight.t()


def coding(
    node: Node, constants: Mapping[str, Tensor], *, compiled: bool
) -> tuple[Node, Mapping[str, Tensor]] | None:
    """Codes by one scale and zero point as plain numbers."""
    if node.op not in ("QuantizeLinear", "DequantizeLinear") or len(node.inputs) < 3:
        return None
    scale, zero = (constants.get(n) for n in node.inputs[1:3])
    if scale is None or zero is None or scale.numel() != 1 or zero.dtype != torch.uint8:
        return None
    settings = {"scale": scale.item(), "zero": int(zero.item())}
    ways = {"QuantizeLinear": "allot.Codes", "DequantizeLinear": "allot.Values"}
    op = ways[node.op] + ("Joined" if compiled and node.op == "QuantizeLinear" else "")
    return _node(op, node.inputs[:1], node.outputs[0], settings), {}


def conv8(
    x: Tensor, weight: Tensor, weight_scale: Tensor, weight_zero: Tensor,
    bias: Tensor | None = None, *, x_scale: float, x_zero: int, stride: Ints, padding: Ints,
    dilation: Ints, groups: int, cut: str, bounds: Sequence[float], scale: float, zero: int,
    kind: torch.dtype,
) -> Tensor:  # fmt: skip
    found: Tensor = torch.ops.onednn.qconv_pointwise(
        x, x_scale, x_zero, weight, weight_scale, weight_zero, bias, stride, padding, dilation,
        groups, scale, zero, kind, cut, bounds, "",
    )  # fmt: skip
    return found


def linear8(
    x: Tensor, weight: Tensor, weight_scale: Tensor, weight_zero: Tensor,
    bias: Tensor | None = None, *, x_scale: float, x_zero: int, cut: str,
    bounds: Sequence[float], scale: float, zero: int, kind: torch.dtype,
) -> Tensor:  # fmt: skip
    found: Tensor = torch.ops.onednn.qlinear_pointwise(
        x.contiguous(), x_scale, x_zero, weight, weight_scale, weight_zero, bias, scale, zero,
        kind, cut, bounds, "",
    )  # fmt: skip
    return found


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    found: Tensor = torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")
    return found


def codes(x: Tensor, *, scale: float, zero: int) -> Tensor:
    """uint8 codes; one tensor in between instead of four."""
    return x.div(scale).round_().add_(zero).clamp_(0, 255).to(torch.uint8)


def joined_codes(x: Tensor, *, scale: float, zero: int) -> Tensor:
    return (torch.round(x / scale) + zero).clamp(0, 255).to(torch.uint8)


def values(x: Tensor, *, scale: float, zero: int) -> Tensor:
    return x.float().sub_(zero).mul_(scale) if zero else x.float().mul_(scale)


OPERATORS: Mapping[str, Callable[..., Any]] = {
    **PLAIN,
    "allot.Codes": codes,
    "allot.CodesJoined": joined_codes,
    "allot.Conv8": conv8,
    "allot.Linear": linear,
    "allot.Linear8": linear8,
    "allot.Values": values,
}
