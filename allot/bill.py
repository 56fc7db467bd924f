"""Bills: exact bytes and BitOPs of any plan, as tables over the choices of a space."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from allot.option import Option, count
from allot.site import Graph, Layer
from allot.space import Choice, Point, Space
from allot.table import Table, Term
from allot.target import Target


@dataclass(frozen=True, kw_only=True)
class LayerState:
    """What a layer's bill depends on once everything that touches it is chosen.

    stored_bits, row_bytes: of its weight.  weight_bits, input_bits: the options' computing
    formats.  ins, outs: channels that stay.
    """

    layer: Layer
    stored_bits: float
    row_bytes: int
    weight_bits: float
    input_bits: float
    ins: int
    outs: int

    @property
    def elements(self) -> int:
        """Elements of the stored weight."""
        depth = 1 if self.layer.groups > 1 else self.ins
        if self.layer.groups > 1:
            depth = self.layer.weight[1]
        return self.outs * depth * count(self.layer.weight[2:])

    @property
    def macs(self) -> float:
        """Multiply-accumulates per sample."""
        return self.layer.macs * self.elements / count(self.layer.weight)

    @property
    def stored_bytes(self) -> int:
        """Bytes of the packed weight, its scales and the folded bias."""
        bias = 4 * self.outs if self.layer.bias or self.layer.norm else 0
        return math.ceil(self.elements * self.stored_bits / 8) + self.outs * self.row_bytes + bias

    @property
    def integer(self) -> bool:
        """True where weight and input are both integers of at most 8 bits."""
        return self.weight_bits <= 8 and self.input_bits <= 8


def touching(space: Space, layer: Layer) -> tuple[int, ...]:
    """Positions of the choices that a layer's bill depends on, ascending."""
    found = []
    for i, choice in enumerate(space.choices):
        sites = [space.graph.site(n) for n in (choice.site, *choice.tied)]
        if any(s.name == layer.input or _touches(s.touches, layer) for s in sites):
            found.append(i)
    return tuple(found)


def _touches(touches: Sequence[object], layer: Layer) -> bool:
    return any(getattr(t, "module", "") == layer.module and _counts(t) for t in touches)


def _counts(touch: object) -> bool:
    """Weights and channel groups change a layer's bill; a tensor behind it does not."""
    return getattr(touch, "role", "") == "weight" or bool(getattr(touch, "index", ()))


def states(space: Space, layer: Layer) -> tuple[tuple[int, ...], dict[Point, LayerState]]:
    """The choices that touch a layer, and its state for every combination of their options."""
    at = touching(space, layer)
    ranges = [range(len(space.choices[i].options)) for i in at]
    chosen = [space.choices[i] for i in at]
    return at, {p: _state(space.graph, layer, chosen, p) for p in itertools.product(*ranges)}


def state(space: Space, layer: Layer, point: Point) -> LayerState:
    """The state of a layer under a whole point of the space."""
    at = touching(space, layer)
    return _state(space.graph, layer, [space.choices[i] for i in at], [point[i] for i in at])


def _state(
    graph: Graph, layer: Layer, chosen: Sequence[Choice], point: Sequence[int]
) -> LayerState:
    effects = {}
    lost = {"in": 0, "out": 0}
    for choice, i in zip(chosen, point, strict=True):
        option = choice.options[i]
        for name in (choice.site, *choice.tied):
            effects[name] = option.effect(graph.site(name))
            for role, n in _lost(graph, layer, name, option).items():
                lost[role] += n
    weight = effects.get(f"{layer.module}.weight")
    entering = effects.get(layer.input)
    ins = layer.weight[1] if layer.groups == 1 else layer.weight[0]
    return LayerState(
        layer=layer,
        stored_bits=weight.stored_bits if weight else 32,
        row_bytes=weight.row_bytes if weight else 0,
        weight_bits=weight.compute_bits if weight else 32,
        input_bits=entering.compute_bits if entering else 32,
        ins=ins - lost["in"],
        outs=layer.weight[0] - lost["out"],
    )


def _lost(graph: Graph, layer: Layer, name: str, option: Option) -> dict[str, int]:
    """Channels that the option at a site takes from a layer's input and output."""
    site = graph.site(name)
    keep = option.effect(site).keep
    lost = {"in": 0, "out": 0}
    if keep < 0:
        return lost
    for touch in site.touches:
        if touch.module == layer.module and touch.role in lost:
            of_site = sum(i >= 0 for i in touch.index)
            # every class of a group holds equally many positions of a module's channels
            lost[touch.role] += of_site - of_site * keep // site.shape[0]
    return lost


def layer_table(
    space: Space,
    value: Callable[[LayerState], float],
    *,
    unit: str,
    origin: str,
    constant: float = 0.0,
) -> Table:
    """The sum over layers of a number that depends on a layer's state."""
    terms = []
    for layer in space.graph.layers:
        at, found = states(space, layer)
        shape = [len(space.choices[i].options) for i in at]
        values = np.array([value(s) for s in found.values()], dtype=np.float64).reshape(shape)
        if at:
            terms.append(Term(at=at, values=values))
        else:
            constant += float(values)
    return Table(unit=unit, origin=origin, constant=constant, terms=tuple(terms))


def size(space: Space, *, header: int) -> Table:
    """Bytes of the packed weights file; header: what the container adds, exactly."""
    return layer_table(
        space,
        lambda s: float(s.stored_bytes),
        unit="byte",
        origin="exact account",
        constant=float(header + space.graph.loose),
    )


def bitops(space: Space, target: Target) -> Table:
    """BitOPs per sample: MACs × weight bits × activation bits of the format that computes."""

    def value(s: LayerState) -> float:
        weight, entering = target.computes(s.weight_bits, s.input_bits)
        return s.macs * weight * entering

    return layer_table(space, value, unit="bitop", origin="exact account")
