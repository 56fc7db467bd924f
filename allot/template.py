"""Template: the files of plans that differ in formats alone, made from one export by editing it.

An export through torch takes seconds. In a template every tensor that could be quantized is, and
every weight comes from codes; what a plan leaves in float is then taken out of it.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from allot.deploy import named_layers, original_name
from allot.deployed import (
    CodedLayer,
    DeployedLayer,
    EdgeQuant,
    ExpandedLayer,
    FloatLayer,
    FormattedLayer,
    Placed,
)
from allot.refill import Edge, refilled
from allot.site import Graph
from allot.sweep import find, left_out, rewrapped, unwrapped

Export = Callable[[nn.Module], bytes]

_PLACE = ("op", "stride", "padding", "dilation", "groups")
# templates that are held: a job's last plans differ in formats alone, or in little else
_MOST = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Template:
    """onnx: the file in which all is quantized.  marks: of an edge, the scale by which its
    operators are known there.  names: of a tensor in the original network -> in the file."""

    onnx: bytes
    marks: Mapping[Edge, float]
    names: Mapping[str, str]


class Files:
    """ONNX files of the plans of one network; holds the templates it made last."""

    def __init__(self, graph: Graph, export: Export) -> None:
        self._graph, self._export = graph, export
        self._templates: dict[str, Template] = {}

    def of(self, deployed: nn.Module) -> bytes:
        """The file of a deployed plan, as an export would write it but for names."""
        name = form(deployed)
        if name not in self._templates:
            made = template(deployed, self._graph, self._export)
            kept = list(self._templates.items())[-_MOST + 1 :]
            self._templates = dict([*kept, (name, made)])
        t, quantizers = self._templates[name], _quantizers(deployed)
        return refilled(t.onnx, deployed, names=t.names, marks=t.marks, quantizers=quantizers)


class _Slot(DeployedLayer):
    """Any layer with its weight from codes, all of them 0."""

    def __init__(self, layer: FloatLayer | CodedLayer) -> None:
        nn.Module.__init__(self)
        for name in _PLACE:
            if hasattr(layer, name):
                setattr(self, name, getattr(layer, name))
        shape = _shape(layer)
        self.register_buffer("codes", torch.zeros(shape, dtype=torch.int8))
        self.register_buffer("scale", torch.ones(shape[0]))
        self.register_buffer("zero", torch.zeros(shape[0], dtype=torch.int8))
        self.register_buffer("bias", None if layer.bias is None else torch.zeros(shape[0]))


def form(deployed: nn.Module) -> str:
    """A digest of what two plans must share for their files to differ in formats alone."""
    slots = _slots(deployed)
    dropped = {id(m) for m in _quantizers(deployed).values()}
    lines = [
        _line(original_name(deployed, path), m, as_layer=id(m) in slots)
        for path, m in deployed.named_modules()
        if id(m) not in dropped
    ]
    return hashlib.sha256(json.dumps(lines).encode()).hexdigest()


def template(deployed: nn.Module, graph: Graph, export: Export) -> Template:
    """The template of a deployed plan; export: writes a network's file."""
    model = copy.deepcopy(deployed)
    slots = _slots(model)
    for name, layer in named_layers(model).items():
        if id(layer) in slots:
            _put(model, name, _Slot(layer))  # type: ignore[arg-type]
    _wrap(model, graph)
    edges = _quantizers(model)
    marks = {}
    for i, (edge, quantizer) in enumerate(edges.items()):
        # exact in float32, and of no other tensor
        marks[edge] = quantizer.scale = 1 + (i + 1) / 2**16
    names = {original_name(model, k): k for k in model.state_dict()}
    return Template(onnx=export(model), marks=marks, names=names)


def _slots(deployed: nn.Module) -> set[int]:
    """Identities of layers whose weight may be codes or floats."""
    # no further kinds of layer: they may compute in ways of their own
    kinds = (FloatLayer, FormattedLayer, DeployedLayer, ExpandedLayer)
    return {id(m) for m in deployed.modules() if type(m) in kinds}


def _quantizers(deployed: nn.Module) -> dict[Edge, EdgeQuant]:
    """Quantizers of 8 bits by edge, where no wrapper of another kind stands around the module."""
    found = {}
    for path, m in deployed.named_modules():
        if isinstance(m, EdgeQuant) and m.bits == 8:
            name = original_name(deployed, path)
            if _quantizers_alone(find(deployed, name)):
                found[name, m.role] = m
    return found


def _quantizers_alone(module: nn.Module) -> bool:
    while getattr(module, "is_wrapper", False):
        if not isinstance(module, EdgeQuant) or module.bits < 8:
            return False
        module = module.inner
    return True


def _wrap(model: nn.Module, graph: Graph) -> None:
    """Puts a quantizer at every edge of the graph that has none and may have one, in place."""
    known = _quantizers(model)
    sites = (s for s in (*graph.sites, *graph.results) if s.kind == "activation")
    for touch in (t for s in sites for t in s.touches):
        edge = (touch.module, touch.role)
        if edge in known or left_out(model, touch.module):
            continue
        module = find(model, touch.module)
        if _quantizers_alone(module) and touch.module:
            known[edge] = EdgeQuant(module, role=touch.role, scale=1.0, zero_point=0, bits=8)
            parent, _, child = touch.module.rpartition(".")
            unwrapped(find(model, parent))._modules[child] = known[edge]


def _put(model: nn.Module, name: str, new: nn.Module) -> None:
    """Puts a module in the place of the innermost one of a name, in place."""
    parent, _, child = name.rpartition(".")
    inside = unwrapped(find(model, parent))
    inside._modules[child] = rewrapped(find(model, name), new)


def _shape(layer: FloatLayer | CodedLayer) -> tuple[int, ...]:
    return tuple((layer.codes if isinstance(layer, CodedLayer) else layer.weight).shape)


def _line(name: str, module: nn.Module, *, as_layer: bool) -> list[Any]:
    """What of a module has to be equal."""
    if as_layer:
        assert isinstance(module, FloatLayer | CodedLayer)
        place = [repr(getattr(module, k, None)) for k in _PLACE]
        return [name, "layer", _shape(module), module.bias is not None, *place]
    own = {**module._parameters, **module._buffers}
    tensors = [
        (k, list(t.shape), str(t.dtype), _content(t) if _constant_in(module, k) else "")
        for k, t in own.items()
        if t is not None
    ]
    plain = {
        k: repr(v)
        for k, v in vars(module).items()
        if not k.startswith("_") and isinstance(v, int | float | str | tuple | list)
    }
    if isinstance(module, Placed):
        plain["format"] = repr(getattr(getattr(module, "encoded", None), "format", None))
    return [name, type(module).__qualname__, tensors, sorted(plain.items())]


def _constant_in(module: nn.Module, name: str) -> bool:
    """Whether a tensor is no part of the state, and so may be folded into the file."""
    return name in module._non_persistent_buffers_set


def _content(t: torch.Tensor) -> str:
    return hashlib.sha256(t.contiguous().numpy().tobytes()).hexdigest()
