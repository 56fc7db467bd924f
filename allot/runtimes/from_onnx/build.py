"""Build: a network's nodes as one torch.fx graph, its constants folded."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx, nn

from allot.errors import ModelError
from allot.runtimes.from_onnx import codes, host, layers, moving, pointwise
from allot.runtimes.from_onnx.read import Network, Node

OPERATORS: Mapping[str, Callable[..., Any]] = {
    **pointwise.OPERATORS,
    **moving.OPERATORS,
    **layers.OPERATORS,
    **codes.OPERATORS,
}

# inputs that are numbers on the host, not tensors, by their places: one, or a vector of them
_ONE: Mapping[str, tuple[int, ...]] = {
    "Clip": (1, 2),
    "CumSum": (1,),
    "Pad": (2,),
    "Range": (0, 1, 2),
    "TopK": (1,),
    "Trilu": (1,),
}
_SEVERAL: Mapping[str, tuple[int, ...]] = {
    "ConstantOfShape": (0,),
    "Expand": (1,),
    "Pad": (1, 3),
    "ReduceL2": (1,),
    "ReduceMax": (1,),
    "ReduceMean": (1,),
    "ReduceMin": (1,),
    "ReduceProd": (1,),
    "ReduceSum": (1,),
    "ReduceSumSquare": (1,),
    "Reshape": (1,),
    "Resize": (1, 2, 3),
    "Slice": (1, 2, 3, 4),
    "Split": (1,),
    "Squeeze": (1,),
    "Tile": (1,),
    "Unsqueeze": (1,),
}
_MADE_ON_DEVICE = ("ConstantOfShape", "Range")
_NEVER_FOLDED = (*_MADE_ON_DEVICE, "Shape")


def folded(network: Network, operators: Mapping[str, Callable[..., Any]] = OPERATORS) -> Network:
    """The network with every node that reads constants alone replaced by what it makes."""
    network = codes.expanded(network)
    constants, left = dict(network.constants), []
    for node in network.nodes:
        known = all(n in constants for n in node.inputs if n)
        if not known or node.op in _NEVER_FOLDED or not any(node.inputs):
            left.append(node)
            continue
        found = _function(node, operators)(
            *(_given(node, i, constants) for i in range(len(node.inputs))), **node.settings
        )
        outputs = found if isinstance(found, tuple) else (found,)
        constants.update(zip(node.outputs, outputs, strict=False))
    return replace(network, nodes=tuple(left), constants=constants)


def _given(node: Node, i: int, constants: Mapping[str, Tensor]) -> Any:
    """An input that is a constant, as the operator takes it."""
    name = node.inputs[i]
    if not name:
        return None
    if i in _ONE.get(node.op, ()):
        return constants[name].reshape(()).item()
    if i in _SEVERAL.get(node.op, ()):
        return tuple(constants[name].reshape(-1).tolist())
    if node.op == "Gather" and i == 1 and constants[name].dim() == 0:
        return constants[name].item()
    return constants[name]


def number(value: Tensor) -> Any:
    """A tensor as the host has it: a number, or a tuple of numbers."""
    found = value.tolist()
    return tuple(found) if isinstance(found, list) else found


def as_tensor(value: Any, device: str) -> Tensor:
    """Numbers of the host as a tensor: int64, or float32."""
    return torch.tensor(value, device=device)


def _function(node: Node, operators: Mapping[str, Callable[..., Any]]) -> Callable[..., Any]:
    """What runs the node; raises ModelError for an operator or a setting of it that torch lacks."""
    if node.op not in operators:
        raise ModelError(
            f"the operator {node.op} of {node.name or node.outputs[0]!r} does not run in torch"
        )
    function = operators[node.op]
    try:
        signature = inspect.signature(function)
    except ValueError:  # of torch's own functions, which take no settings here
        return function
    known = {p.name for p in signature.parameters.values() if p.kind is p.KEYWORD_ONLY}
    unknown = set(node.settings) - known
    if unknown:
        raise ModelError(
            f"{node.op} {node.name!r} is set by {min(unknown)}, which does not run in torch"
        )
    return function


def build(
    network: Network,
    *,
    device: str = "cpu",
    operators: Mapping[str, Callable[..., Any]] = OPERATORS,
) -> fx.GraphModule:
    """A module of positional inputs and a tuple of outputs, both in the file's order."""
    made = _Making(folded(network, operators), device=device, operators=operators)
    return made.module()


class _Making:
    """The graph while it grows.  values: name -> its fx node; hosted: names that are numbers."""

    def __init__(
        self, network: Network, *, device: str, operators: Mapping[str, Callable[..., Any]]
    ) -> None:
        self.network, self.device, self.operators = network, device, operators
        self.graph, self.root = fx.Graph(), nn.Module()
        self.values: dict[str, fx.Node] = {}
        self.hosted: set[str] = set()

    def module(self) -> fx.GraphModule:
        for i, name in enumerate(self.network.inputs):
            self.values[name] = self.graph.placeholder(f"x{i}")
        for node in self.network.nodes:
            self._add(node)
        self.graph.output(tuple(self._tensor(n) for n in self.network.outputs))
        # a pure operator that nobody reads
        self.graph.eliminate_dead_code()
        return fx.GraphModule(self.root, self.graph).eval().requires_grad_(False)

    def _add(self, node: Node) -> None:
        if node.op == "Shape":
            self._put_hosted(node, host.shape, (self._tensor(node.inputs[0]),))
        elif node.op in host.OPERATORS and self._on_host(node):
            given = tuple(self._number(n) for n in node.inputs)
            self._put_hosted(node, host.OPERATORS[node.op], given)
        else:
            self._put(node)

    def _on_host(self, node: Node) -> bool:
        """Whether it reads a shape, and beside it at most constants that are numbers."""
        names = [n for n in node.inputs if n]
        small = all(n in self.hosted or self._is_small(n) for n in names)
        return small and any(n in self.hosted for n in names)

    def _is_small(self, name: str) -> bool:
        found = self.network.constants.get(name)
        return found is not None and found.dim() <= 1 and not found.is_complex()

    def _put_hosted(self, node: Node, function: Callable[..., Any], given: tuple[Any, ...]) -> None:
        self.values[node.outputs[0]] = self.graph.call_function(
            function, given, dict(node.settings)
        )
        self.hosted.add(node.outputs[0])

    def _put(self, node: Node) -> None:
        function = _function(node, self.operators)
        given = tuple(self._input(node, i) for i in range(len(node.inputs)))
        settings = dict(node.settings)
        if node.op in _MADE_ON_DEVICE:
            settings["device"] = self.device
        if node.op == "ConstantOfShape" and "value" in settings:
            kind = settings["value"]
            settings |= {"value": kind.reshape(()).item(), "dtype": kind.dtype}
        found = self.graph.call_function(function, given, settings)
        if len(node.outputs) == 1:
            self.values[node.outputs[0]] = found
            return
        for i, name in enumerate(node.outputs):
            if name:
                self.values[name] = self.graph.call_function(_item, (found, i))

    def _input(self, node: Node, i: int) -> Any:
        name = node.inputs[i]
        if name in self.network.constants:
            found = _given(node, i, self.network.constants)
            return self._tensor(name) if isinstance(found, Tensor) else found
        if i in (*_ONE.get(node.op, ()), *_SEVERAL.get(node.op, ())):
            return self._number(name)
        return self._tensor(name)

    def _tensor(self, name: str) -> fx.Node | None:
        """The value as a tensor on the device, None for an input that is left out."""
        if not name:
            return None
        if name in self.hosted:
            return self.graph.call_function(as_tensor, (self.values[name], self.device))
        if name not in self.values:
            place = f"constant_{len(self.values)}"
            self.root.register_buffer(place, self._constant(name).to(self.device))
            self.values[name] = self.graph.get_attr(place)
        return self.values[name]

    def _constant(self, name: str) -> Tensor:
        if name not in self.network.constants:
            raise ModelError(f"a node reads {name!r}, which nothing before it makes")
        return self.network.constants[name]

    def _number(self, name: str) -> Any:
        """The value as numbers of the host, None for an input that is left out."""
        if not name:
            return None
        if name in self.hosted:
            return self.values[name]
        if name in self.network.constants:
            return number(self.network.constants[name])
        return self.graph.call_function(number, (self.values[name],))


def _item(found: tuple[Tensor, ...], i: int) -> Tensor:
    return found[i]
