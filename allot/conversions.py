"""Conversions: elements that go from floats to codes or back where no kernel does it on the way.

A kernel writes codes as readily as floats, so a tensor that an integer layer reads costs nothing
more. Two things do: a tensor put on codes that a layer then reads as floats, and the result of an
integer layer that goes on in floats.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from allot.bill import states, touching
from allot.option import FIXED, Effect, count
from allot.site import Layer
from allot.space import Space
from allot.table import Table, Term
from allot.target import Target

# position of a choice -> position of its option
Chosen = Mapping[int, int]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Formats:
    """What the tensors and layers of a space are computed in, by what is chosen."""

    space: Space
    target: Target
    where: Mapping[str, int]

    def at(self, *names: str) -> tuple[int, ...]:
        """Positions of the choices of some sites, those without one left out."""
        return tuple(sorted({self.where[n] for n in names if n in self.where}))

    def on_codes(self, tensor: str, chosen: Chosen) -> bool:
        """Whether a tensor is put on codes of 8 bits whose range is known beforehand."""
        found = self._effect(tensor, chosen)
        return found is not None and found.ranges == FIXED and found.compute_bits <= 8

    def integer(self, layer: Layer, chosen: Chosen) -> bool:
        """Whether a layer multiplies codes of such a tensor, not of groups."""
        weight = self._effect(f"{layer.module}.weight", chosen)
        entering = self._effect(layer.input, chosen)
        if weight is None or entering is None or entering.ranges != FIXED or weight.group:
            return False
        return max(self.target.computes(weight.compute_bits, entering.compute_bits)) <= 8

    def _effect(self, name: str, chosen: Chosen) -> Effect | None:
        if name not in self.where:
            return None
        i = self.where[name]
        return self.space.choices[i].options[chosen[i]].effect(self.space.graph.site(name))


def vain(space: Space, target: Target, *, batch: int) -> Table:
    """Elements put on codes that a layer reads as floats all the same, per call.

    A tensor that several such layers read counts for each of them.
    """
    formats = _formats(space, target)
    found = []
    for layer in space.graph.layers:

        def happens(chosen: Chosen, layer: Layer = layer) -> bool:
            return formats.on_codes(layer.input, chosen) and not formats.integer(layer, chosen)

        at = formats.at(f"{layer.module}.weight", layer.input)
        found.append((layer, at, happens, elements(layer, batch)))
    return _table(space, found)


def leaving(space: Space, target: Target, *, batch: int) -> Table:
    """Elements that integer layers make and that go on in floats, per call.

    What a layer makes is taken for what the next one in execution order reads that does not read
    the same tensor as it; what branches, sums and nonlinearities between them cost in truth is
    left to the factor that is fitted.
    """
    formats, layers = _formats(space, target), space.graph.layers
    found = []
    for i, layer in enumerate(layers):
        then = next((x.input for x in layers[i + 1 :] if x.input != layer.input), "")

        def happens(chosen: Chosen, layer: Layer = layer, then: str = then) -> bool:
            return formats.integer(layer, chosen) and not formats.on_codes(then, chosen)

        at = formats.at(f"{layer.module}.weight", layer.input, then)
        found.append((layer, at, happens, batch * count(layer.out_shape)))
    return _table(space, found)


def elements(layer: Layer, batch: int) -> int:
    """Elements of the tensor that a layer reads, for a whole batch."""
    return batch * count(layer.in_shape)


def _formats(space: Space, target: Target) -> _Formats:
    where = {name: i for i, c in enumerate(space.choices) for name in (c.site, *c.tied)}
    return _Formats(space=space, target=target, where=where)


def _table(
    space: Space, events: Sequence[tuple[Layer, tuple[int, ...], Callable[[Chosen], bool], int]]
) -> Table:
    """Elements of the layers at which an event happens, as far as a plan still has them."""
    terms, constant = [], 0.0
    for layer, at, happens, n in events:
        values = np.zeros([len(space.choices[i].options) for i in at])
        for cell in np.ndindex(*values.shape):
            values[cell] = n * happens(dict(zip(at, cell, strict=True)))
        at, values = _present(space, layer, at, values)
        if at:
            terms.append(Term(at=at, values=values))
        else:
            constant += float(values)
    return Table(unit="element", origin="counted", constant=constant, terms=tuple(terms))


def _present(
    space: Space, layer: Layer, at: tuple[int, ...], values: np.ndarray
) -> tuple[tuple[int, ...], np.ndarray]:
    """The values of a term times the share of the layer's input that a plan still has."""
    structure = ("block", "tokens")
    sites = {i: space.graph.site(space.choices[i].site) for i in touching(space, layer)}
    extra = tuple(i for i, s in sites.items() if s.kind in structure)
    if not extra:
        return at, values
    part = Space(graph=space.graph, choices=tuple(space.choices[i] for i in extra))
    shares = [0.0 if s.gone else s.tokens / s.all_tokens for s in states(part, layer)[1].values()]
    grid = np.array(shares).reshape(part.counts)
    joint = np.multiply.outer(values, grid)
    order = np.argsort((*at, *extra))
    return tuple(sorted((*at, *extra))), joint.transpose(order)
