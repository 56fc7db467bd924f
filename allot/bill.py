"""Bills: exact bytes and BitOPs of any plan, as tables over the choices of a space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from allot.layer_state import LayerState as LayerState
from allot.layer_state import state as state
from allot.layer_state import states as states
from allot.layer_state import touching as touching
from allot.option import count
from allot.space import Space
from allot.table import Table, Term
from allot.target import Target


def layer_table(
    space: Space,
    value: Callable[[LayerState], float],
    *,
    unit: str,
    origin: str,
    constant: float = 0.0,
    tokens: bool = True,
) -> Table:
    """The sum over layers of a number that depends on a layer's state.

    tokens: False where the number does not depend on how many tokens a layer reads.
    """
    terms = []
    for layer in space.graph.layers:
        at, found = states(space, layer, tokens=tokens)
        shape = [len(space.choices[i].options) for i in at]
        values = np.array([value(s) for s in found.values()], dtype=np.float64).reshape(shape)
        if at:
            terms.append(Term(at=at, values=values))
        else:
            constant += float(values)
    return Table(unit=unit, origin=origin, constant=constant, terms=tuple(terms))


def size(space: Space, *, header: int) -> Table:
    """Bytes of the packed weights file; header: what the container adds, exactly."""
    layers = layer_table(
        space,
        lambda s: float(s.stored_bytes),
        unit="byte",
        origin="exact account",
        constant=float(header + space.graph.loose),
        tokens=False,
    )
    return replace(layers, terms=(*layers.terms, *_loose(space), *_tables(space)))


def _tables(space: Space) -> list[Term]:
    """What tables take in codes instead of the float32 that `loose` counts."""
    terms = []
    for i, c in enumerate(space.choices):
        site = space.graph.site(c.site)
        if site.kind == "embedding":
            whole = 4 * count(site.shape)
            stores = (o.effect(site).stores for o in c.options)
            values = [x.stored_bytes(*site.shape) - whole if x else 0 for x in stores]
            terms.append(Term(at=(i,), values=np.array(values, dtype=np.float64)))
    return terms


def _loose(space: Space) -> list[Term]:
    """What the parameters of a dropped block that no layer owns no longer take."""
    terms = []
    for i, c in enumerate(space.choices):
        values = np.zeros(len(c.options))
        for name in (c.site, *c.tied):
            site = space.graph.site(name)
            gone = np.array([o.effect(site).gone for o in c.options])
            if gone.any():
                values -= gone * space.graph.loose_in(site.touches[0].module)
        if values.any():
            terms.append(Term(at=(i,), values=values))
    return terms


def bitops(space: Space, target: Target) -> Table:
    """BitOPs per sample: MACs × weight bits × activation bits of the format that computes."""

    def value(s: LayerState) -> float:
        weight, entering = target.computes(s.weight_bits, s.input_bits)
        return s.macs * weight * entering

    return layer_table(space, value, unit="bitop", origin="exact account")
