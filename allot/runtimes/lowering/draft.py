"""Draft: an ONNX graph while it is rewritten; what nobody reads any more is dropped at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allot.runtimes.onnx_file import parsed

DOMAIN = "com.microsoft"


@dataclass(frozen=True, kw_only=True)
class Codes:
    """A tensor of unsigned codes: real = (codes - zero) * scale.

    name, scale_name, zero_name: of the tensors in the graph.  last: the channels are the last dim
    of its four.
    """

    name: str
    scale_name: str
    zero_name: str
    scale: float
    zero: int
    last: bool = False


class Draft:
    """A graph and what is to stand beside its nodes or in their place."""

    def __init__(self, onnx: bytes) -> None:
        self.proto = parsed(onnx)
        self.graph = self.proto.graph
        self.nodes: tuple[Any, ...] = tuple(self.graph.node)
        self.found: dict[str, Codes | None] = {}
        self._turned: dict[str, str] = {}
        self._maker: dict[str, Any] = {o: n for n in self.nodes for o in n.output}
        self._first: list[Any] = []
        self._instead: dict[int, list[Any]] = {}
        self._behind: dict[int, list[Any]] = {}

    @cached_property
    def made_by(self) -> dict[str, Any]:
        """Tensor -> the node that makes it in the given graph."""
        return {o: n for n in self.nodes for o in n.output}

    @cached_property
    def outputs(self) -> frozenset[str]:
        return frozenset(x.name for x in self.graph.output)

    @cached_property
    def _readers(self) -> dict[str, list[Any]]:
        found: dict[str, list[Any]] = {}
        for n in self.nodes:
            for x in n.input:
                found.setdefault(x, []).append(n)
        return found

    @cached_property
    def _constants(self) -> dict[str, Any]:
        return {t.name: t for t in self.graph.initializer}

    def only_reader(self, name: str) -> Any:
        """The one node that reads a tensor; None for another number, or an output of the graph."""
        readers = self._readers.get(name, [])
        return readers[0] if len(readers) == 1 and name not in self.outputs else None

    def value(self, name: str) -> NDArray[Any] | None:
        """A constant's value, None for what is computed."""
        from onnx import numpy_helper

        found = self._constants.get(name)
        return None if found is None else np.asarray(numpy_helper.to_array(found))

    def constant(self, name: str, value: NDArray[Any]) -> str:
        """A new constant under this name; its name."""
        from onnx import numpy_helper

        data = np.ascontiguousarray(value).reshape(value.shape)
        self.graph.initializer.append(numpy_helper.from_array(data, name))
        return name

    def replace(self, old: Any, new: Sequence[Any]) -> None:
        """Nodes in the place of one; they make tensors of the same names."""
        self._instead[id(old)] = list(new)

    def behind(self, node: Any, new: Any) -> None:
        """A further node right behind one."""
        self._behind.setdefault(id(node), []).append(new)
        self._maker |= dict.fromkeys(new.output, node)

    def pair(self, first: str, last: str) -> None:
        """Says that one tensor holds what another does, with the channels as the last dim."""
        self._turned |= {first: last, last: first}
        self._maker.setdefault(last, self._maker.get(first))

    def is_paired(self, codes: Codes) -> bool:
        """Whether the tensor is there in both orders of its dims."""
        return codes.name in self._turned

    def turned(self, codes: Codes, *, last: bool) -> Codes:
        """The codes with their channels as the last dim, or the second."""
        if codes.last == last:
            return codes
        if codes.name not in self._turned:
            node = transpose(codes.name, f"{codes.name}.last", last=last)
            maker = self._maker.get(codes.name)
            if maker is None:
                self._first.append(node)
            else:
                self.behind(maker, node)
            self.pair(codes.name, f"{codes.name}.last")
        return replace(codes, name=self._turned[codes.name], last=last)

    def finish(self) -> bytes:
        """The rewritten graph, weights that stay float in floats."""
        from onnx import helper

        nodes = list(self._first)
        for n in self.nodes:
            nodes += self._instead.get(id(n), [n]) + self._behind.get(id(n), [])
        nodes = [n for n in _read(nodes, self.outputs) if not self._expanded(n)]
        kept = {x for n in nodes for x in n.input} | self.outputs
        constants = [t for t in self.graph.initializer if t.name in kept]
        # both lists are views of the graph: copied before they are emptied
        nodes, constants = [_copy(n) for n in nodes], [_copy(t) for t in constants]
        del self.graph.node[:], self.graph.initializer[:]
        for n in nodes:
            n.name = n.name or n.output[0]
        self.graph.node.extend(nodes)
        self.graph.initializer.extend(constants)
        if all(x.domain != DOMAIN for x in self.proto.opset_import):
            self.proto.opset_import.append(helper.make_opsetid(DOMAIN, 1))
        return bytes(self.proto.SerializeToString(deterministic=True))

    def _expanded(self, node: Any) -> bool:
        """Puts the floats of a constant int8 weight into the node's place, where it makes one."""
        if node.op_type != "DequantizeLinear":
            return False
        codes, scale = self.value(node.input[0]), self.value(node.input[1])
        if codes is None or scale is None or codes.dtype != np.int8 or scale.ndim > 1:
            return False
        zero = self.value(node.input[2]) if len(node.input) > 2 else np.zeros(1)
        if zero is None or zero.any():
            return False
        axis = next((a.i for a in node.attribute if a.name == "axis"), 1) % max(codes.ndim, 1)
        shape = [-1 if d == axis and scale.size > 1 else 1 for d in range(codes.ndim)]
        values = codes.astype(np.float32) * scale.astype(np.float32).reshape(shape)
        self.constant(node.output[0], values)
        return True


def transpose(source: str, result: str, *, last: bool) -> Any:
    """A node that puts the channels last, or second."""
    from onnx import helper

    order = [0, 2, 3, 1] if last else [0, 3, 1, 2]
    return helper.make_node("Transpose", [source], [result], perm=order)


def _read(nodes: Sequence[Any], outputs: frozenset[str]) -> list[Any]:
    """The nodes that an output depends on, in their order."""
    wanted, found = set(outputs), []
    for n in reversed(nodes):
        if wanted & set(n.output):
            wanted |= set(n.input)
            found.append(n)
    return found[::-1]


def _copy(message: Any) -> Any:
    new = type(message)()
    new.CopyFrom(message)
    return new
