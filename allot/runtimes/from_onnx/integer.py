"""Integer: layers whose input and weight are codes, found in a network and put as one node each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from allot.runtimes.from_onnx.read import Network, Node

_BYTES = (torch.uint8, torch.int8)


@dataclass(frozen=True, kw_only=True)
class Codes:
    """A tensor of 8-bit codes with one scale and zero point for the whole."""

    name: str
    scale: float
    zero: int
    kind: torch.dtype


@dataclass(frozen=True, kw_only=True, eq=False)
class IntegerLayer:
    """A Conv, Gemm or MatMul on codes, with what follows it as far as nothing else reads between.

    weight: int8 [out, in of a group, ...].  scale: [out], of the weight.  low, high: bounds that
    cut the result off, None for no bound.  out: the codes that it is turned into, None where it
    stays float.  result: the name of what it makes.
    """

    node: Node
    x: Codes
    weight: Tensor
    scale: Tensor
    bias: Tensor | None = None
    low: float | None = None
    high: float | None = None
    out: Codes | None = None
    result: str
    absorbed: tuple[Node, ...] = ()


# the node that computes the layer, and the constants that it reads; None where no kernel fits
Make = Callable[[IntegerLayer], tuple[Node, Mapping[str, Tensor]] | None]


def joined(network: Network, make: Make) -> Network:
    """The network with every integer layer that `make` takes as one node."""
    finder = _Finder(network)
    gone: set[int] = set()
    nodes: list[Node] = []
    constants = dict(network.constants)
    for node in network.nodes:
        if id(node) in gone:
            continue
        found = finder.layer(node)
        made = make(found) if found is not None else None
        if found is None or made is None:
            nodes.append(node)
            continue
        nodes.append(made[0])
        constants.update(made[1])
        gone |= {id(n) for n in found.absorbed}
    return needed(replace(network, nodes=tuple(nodes), constants=constants))


def needed(network: Network) -> Network:
    """The network without nodes and constants that no output depends on."""
    wanted, nodes = set(network.outputs), []
    for node in reversed(network.nodes):
        if wanted & set(node.outputs):
            nodes.append(node)
            wanted |= set(node.inputs)
    constants = {k: v for k, v in network.constants.items() if k in wanted}
    return replace(network, nodes=tuple(reversed(nodes)), constants=constants)


class _Finder:
    def __init__(self, network: Network) -> None:
        self.network, self.constants = network, network.constants
        self.makers, self.readers = network.makers(), network.readers()

    def layer(self, node: Node) -> IntegerLayer | None:
        if node.op not in ("Conv", "Gemm", "MatMul"):
            return None
        x, weight = self.codes_read(node.inputs[0]), self._weight(node)
        if x is None or weight is None:
            return None
        found = IntegerLayer(
            node=node, x=x, weight=weight[0], scale=weight[1], result=node.outputs[0]
        )
        return self._quantized(self._cut(self._biased(found)))

    def codes_read(self, name: str) -> Codes | None:
        """The codes that a tensor is dequantized from, with one scale; None where it is not."""
        node = self.makers.get(name)
        if node is None or node.op != "DequantizeLinear":
            return None
        return self._coded(node, node.inputs[0])

    def _coded(self, node: Node, name: str) -> Codes | None:
        """Codes by the scale and zero point of a node that makes or reads them."""
        if len(node.inputs) < 3 or name in self.constants:
            return None
        scale, zero = (self.constants.get(n) for n in node.inputs[1:3])
        if scale is None or zero is None or zero.dtype not in _BYTES:
            return None
        if scale.numel() != 1 or zero.numel() != 1 or node.settings.get("block_size", 0):
            return None
        return Codes(name=name, scale=scale.item(), zero=int(zero.item()), kind=zero.dtype)

    def _weight(self, node: Node) -> tuple[Tensor, Tensor] | None:
        """Codes [out, in, ...] and scales [out] of a layer's weight; None where it has none."""
        maker, turned = self.makers.get(node.inputs[1]), False
        if maker is not None and maker.op == "Transpose":
            turned = tuple(maker.settings.get("perm", (1, 0))) == (1, 0)
            maker = self.makers.get(maker.inputs[0]) if turned else None
        if maker is None or maker.op != "DequantizeLinear":
            return None
        codes, scale, zero = (self.constants.get(n) for n in (*maker.inputs, "")[:3])
        if codes is None or scale is None or codes.dtype != torch.int8:
            return None
        if (zero is not None and bool(zero.any())) or maker.settings.get("block_size", 0):
            return None
        return _upright(node, codes, scale, maker.settings.get("axis", 1), turned=turned)

    def _only_reader(self, name: str, *ops: str) -> Node | None:
        readers = self.readers.get(name, [])
        alone = len(readers) == 1 and name not in self.network.outputs
        return readers[0] if alone and readers[0].op in ops else None

    def _biased(self, layer: IntegerLayer) -> IntegerLayer:
        node = layer.node
        if node.op != "MatMul":
            bias = self.constants.get(node.inputs[2]) if len(node.inputs) > 2 else None
            return replace(layer, bias=bias)
        after = self._only_reader(layer.result, "Add")
        if after is None:
            return layer
        other = next(n for n in after.inputs if n != layer.result)
        bias = self.constants.get(other)
        if bias is None or bias.shape != (len(layer.weight),):
            return layer
        return _after(layer, after, bias=bias)

    def _cut(self, layer: IntegerLayer) -> IntegerLayer:
        after = self._only_reader(layer.result, "Relu", "Clip")
        if after is None:
            return layer
        if after.op == "Relu":
            return _after(layer, after, low=0.0)
        bounds = [self.constants.get(n) for n in after.inputs[1:]]
        if len(bounds) != 2 or None in [b if b is None else 0 for b in bounds]:
            return layer
        low, high = (float(b.item()) for b in bounds if b is not None)
        return _after(layer, after, low=low, high=high)

    def _quantized(self, layer: IntegerLayer) -> IntegerLayer:
        after = self._only_reader(layer.result, "QuantizeLinear")
        codes = self._coded(after, after.outputs[0]) if after is not None else None
        return layer if after is None or codes is None else _after(layer, after, out=codes)


def _after(layer: IntegerLayer, node: Node, **known: object) -> IntegerLayer:
    """The layer with a node behind it taken in."""
    absorbed = (*layer.absorbed, node)
    return replace(layer, result=node.outputs[0], absorbed=absorbed, **known)  # type: ignore[arg-type]


def _upright(
    node: Node, codes: Tensor, scale: Tensor, axis: int, *, turned: bool
) -> tuple[Tensor, Tensor] | None:
    """Codes with the outputs first, one scale each; None where scales do not lie along outputs."""
    if node.op == "Conv":
        rows = 0
    elif codes.dim() != 2 or node.settings.get("transA", 0):
        return None
    elif node.settings.get("alpha", 1.0) != 1 or node.settings.get("beta", 1.0) != 1:
        return None
    else:
        rows = 0 if bool(node.settings.get("transB", 0)) != turned else 1
    if scale.numel() > 1 and axis % codes.dim() != rows:
        return None
    upright = codes.t() if rows else codes
    return upright.contiguous(), scale.reshape(-1).expand(len(upright)).float().contiguous()
