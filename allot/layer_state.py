"""Layer state: what a layer's bill depends on under every choice that touches it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from allot.option import GROUPS, LIVE, Effect, Option, Stores, count, kept_tokens
from allot.site import Graph, Layer, Site, Touch
from allot.space import Choice, Point, Space


@dataclass(frozen=True, kw_only=True)
class LayerState:
    """What a layer's bill depends on once everything that touches it is chosen.

    stored_bits, row_bytes: of its weight.  weight_bits, input_bits: the options' computing
    formats.  ins, outs: channels that stay.  tokens, all_tokens: that arrive, and that arrived
    in the original (1 of 1 where nothing thins what the layer reads).  stores: what counts the
    weight's bytes instead of stored_bits and row_bytes, or None.  gone: the layer lies in a
    dropped block; it costs nothing, whatever else is chosen.
    """

    layer: Layer
    stored_bits: float
    row_bytes: int
    weight_bits: float
    input_bits: float
    ins: int
    outs: int
    tokens: int = 1
    all_tokens: int = 1
    stores: Stores | None = None
    block: tuple[int, ...] = ()
    live: bool = False
    gone: bool = False

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
        if self.gone:
            return 0.0
        whole = count(self.layer.weight) * self.all_tokens
        return self.layer.macs * self.elements * self.tokens / whole

    @property
    def stored_bytes(self) -> int:
        """Bytes of the packed weight, its scales and the folded bias."""
        if self.gone:
            return 0
        shifted = self.layer.bias or self.layer.norm
        bias = 4 * self.outs if shifted else 0
        if self.stores is not None:
            # what a norm or a correction multiplies stays beside scales that cannot take it in
            gain = 4 * self.outs if shifted and not self.stores.takes_gain else 0
            k = self.elements // self.outs if self.outs else 0
            return self.stores.stored_bytes(self.outs, k) + gain + bias
        return math.ceil(self.elements * self.stored_bits / 8) + self.outs * self.row_bytes + bias

    @property
    def thinned(self) -> Layer:
        """The layer as it reads the tokens that arrive."""
        if self.tokens == self.all_tokens:
            return self.layer
        return replace(self.layer, in_shape=(self.tokens, *self.layer.in_shape[1:]))

    @property
    def integer(self) -> bool:
        """True where weight and input are both integers of at most 8 bits."""
        return self.weight_bits <= 8 and self.input_bits <= 8


def touching(space: Space, layer: Layer) -> tuple[int, ...]:
    """Positions of the choices that a layer's bill depends on, ascending."""
    found = []
    for i, choice in enumerate(space.choices):
        sites = [space.graph.site(n) for n in (choice.site, *choice.tied)]
        if any(s.name == layer.input or _touches(s, layer) or _holds(s, layer) for s in sites):
            found.append(i)
    return tuple(found)


def _touches(site: Site, layer: Layer) -> bool:
    return any(t.module == layer.module and _counts(t) for t in site.touches)


def _counts(touch: Touch) -> bool:
    """Weights and channel groups change a layer's bill; a tensor behind it does not."""
    return touch.role == "weight" or bool(touch.index)


def _holds(site: Site, layer: Layer) -> bool:
    """A block holds its layers; a token site those that its tokens run through."""
    return site.kind in ("block", "tokens") and layer.module in site.reach


def states(
    space: Space, layer: Layer, *, tokens: bool = True
) -> tuple[tuple[int, ...], dict[Point, LayerState]]:
    """The choices that touch a layer, and its state for every combination of their options.

    tokens: False leaves out the choices of tokens; all of them arrive then.
    """
    at = touching(space, layer)
    if not tokens:
        at = tuple(i for i in at if space.graph.site(space.choices[i].site).kind != "tokens")
    parts = [_parts(space.graph, layer, space.choices[i]) for i in at]
    points = itertools.product(*(range(len(p)) for p in parts))
    picked = ((p, [x[i] for x, i in zip(parts, p, strict=True)]) for p in points)
    return at, {p: _state(space.graph, layer, x) for p, x in picked}


def state(space: Space, layer: Layer, point: Point) -> LayerState:
    """The state of a layer under a whole point of the space."""
    at = touching(space, layer)
    parts = [_parts(space.graph, layer, space.choices[i])[point[i]] for i in at]
    return _state(space.graph, layer, parts)


# what one option does to a layer: the effect at each of its sites, and the channels lost
_Part = tuple[Mapping[str, Effect], Mapping[str, int]]


def _parts(graph: Graph, layer: Layer, choice: Choice) -> list[_Part]:
    """Of every option of a choice."""
    found: list[_Part] = []
    for option in choice.options:
        effects, lost = {}, {"in": 0, "out": 0}
        for name in (choice.site, *choice.tied):
            effects[name] = option.effect(graph.site(name))
            for role, n in _lost(graph, layer, name, option).items():
                lost[role] += n
        found.append((effects, lost))
    return found


def _state(graph: Graph, layer: Layer, parts: Sequence[_Part]) -> LayerState:
    effects = {name: e for part, _ in parts for name, e in part.items()}
    weight = effects.get(f"{layer.module}.weight")
    entering = effects.get(layer.input)
    outs = layer.weight[0] - sum(lost["out"] for _, lost in parts)
    # the groups of a grouped convolution go with their outputs
    ins = layer.ins * outs // layer.weight[0]
    if layer.groups == 1:
        ins = layer.ins - sum(lost["in"] for _, lost in parts)
    every, left = _tokens(graph, layer, effects)
    weight, entering = weight or Effect(), entering or Effect()
    weight_bits, input_bits = _computed(layer, weight, entering)
    block = (int(weight.stored_bits), weight.group)
    return LayerState(
        layer=layer,
        stored_bits=weight.stored_bits,
        row_bytes=weight.row_bytes,
        weight_bits=weight_bits,
        input_bits=input_bits,
        ins=ins,
        outs=outs,
        tokens=left,
        all_tokens=every,
        stores=weight.stores,
        block=block if weight.group and layer.op == "linear" else (),
        live=entering.ranges in (LIVE, GROUPS),
        gone=any(e.gone for e in effects.values()),
    )


def _computed(layer: Layer, weight: Effect, entering: Effect) -> tuple[float, float]:
    """Bits in which weight and input are computed with.

    Groups of input and weight are multiplied as integers where they are the same, else as floats.
    """
    if entering.ranges != GROUPS:
        return weight.compute_bits, entering.compute_bits
    if weight.group == entering.group and layer.op == "linear":
        return weight.stored_bits, entering.compute_bits
    return 32.0, 32.0


def _tokens(graph: Graph, layer: Layer, effects: Mapping[str, Effect]) -> tuple[int, int]:
    """Tokens that a layer reads in the original, and those left by the places before it."""
    places = [s for n in effects if (s := graph.site(n)).kind == "tokens" and _holds(s, layer)]
    if not places:
        return 1, 1
    # what a place thins is what the places before it left: the earlier one reaches further
    places.sort(key=lambda s: -len(s.reach))
    left = places[0].shape[0]
    for s in places:
        left = kept_tokens(left, effects[s.name].tokens)
    return places[0].shape[0], left


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
