"""Fused: operators that ONNX spells out and torch has in one pass: a linear's bias, and GELU."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

from allot.runtimes.from_onnx.read import Network, Node


def fused(network: Network) -> Network:
    """The network with MatMul and Add as one Gemm, and GELU by its error function as one Gelu."""
    finder = _Finder(network)
    new: dict[int, Node] = {}
    gone: set[int] = set()
    for node in network.nodes:
        found = finder.biased(node) or finder.gelu(node)
        if found is not None:
            made, taken = found
            new[id(taken[-1])] = made
            gone |= {id(n) for n in taken}
    nodes = [new.get(id(n), n) for n in network.nodes if id(n) in new or id(n) not in gone]
    return replace(network, nodes=tuple(nodes))


# what stands in, and the nodes that it stands for, the last of them where it goes
_Found = tuple[Node, list[Node]]


class _Finder:
    def __init__(self, network: Network) -> None:
        self.network, self.constants = network, network.constants
        self.makers, self.readers = network.makers(), network.readers()

    def biased(self, node: Node) -> _Found | None:
        """A MatMul by a stored matrix, and the Add of a stored vector behind it."""
        if node.op != "MatMul":
            return None
        weight, after = self.constants.get(node.inputs[1]), self._reader(node, "Add")
        if weight is None or weight.dim() != 2 or after is None:
            return None
        other = self._other(after, node.outputs[0])
        bias = self.constants.get(other)
        if bias is None or bias.shape != (weight.shape[1],):
            return None
        inputs = (*node.inputs, other)
        return Node(op="Gemm", inputs=inputs, outputs=after.outputs, name=after.name), [node, after]

    def gelu(self, node: Node) -> _Found | None:
        """x * (1 + erf(x / sqrt 2)) / 2, its two factors in either order."""
        scaled = self.makers.get(node.inputs[0]) if node.op == "Erf" else None
        if scaled is None or not self._is_divided(scaled) or self._reader(scaled, "Erf") is None:
            return None
        chain, x = [scaled, node], scaled.inputs[0]
        for op in ("Add", "Mul", "Mul"):
            after = self._reader(chain[-1], op)
            if after is None:
                return None
            chain.append(after)
        one, *factors = [self._other(b, a.outputs[0]) for a, b in itertools.pairwise(chain[1:])]
        halves = [n for n in factors if self._number(n) == 0.5]
        if self._number(one) != 1 or len(halves) != 1 or x not in factors:
            return None
        return Node(op="Gelu", inputs=(x,), outputs=chain[-1].outputs, name=chain[-1].name), chain

    def _is_divided(self, node: Node) -> bool:
        """Whether it divides what it reads first by the square root of 2."""
        by = self._number(node.inputs[1]) if node.op in ("Div", "Mul") else None
        if by is None:
            return False
        return math.isclose(by if node.op == "Div" else 1 / by, math.sqrt(2), rel_tol=1e-6)

    def _number(self, name: str) -> float | None:
        value = self.constants.get(name)
        single = value is not None and value.numel() == 1 and value.is_floating_point()
        return float(value.item()) or None if single and value is not None else None

    def _reader(self, node: Node, op: str) -> Node | None:
        """The only reader of a node's result, if it is of this kind."""
        readers = self.readers.get(node.outputs[0], [])
        alone = len(readers) == 1 and node.outputs[0] not in self.network.outputs
        return readers[0] if alone and readers[0].op == op else None

    def _other(self, node: Node, name: str) -> str:
        """The input of a node of two that is not `name`."""
        return next((n for n in node.inputs if n != name), name)
