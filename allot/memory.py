"""Memory: peak bytes of running a plan layer after layer, as a table over a space.

What is counted while a layer runs: the whole packed weights file; the layer's input, in the format
that computes; its output, in 32-bit floats, since it is rounded for whoever reads it next.  Not
counted: what a residual connection holds meanwhile, and the runtime's own buffers.
"""

from __future__ import annotations

import math

import numpy as np

from allot import bill
from allot.bill import LayerState
from allot.option import count
from allot.site import Graph, Layer
from allot.space import Space
from allot.table import Table, Term
from allot.target import Target, Workload


def memory(space: Space, target: Target, *, workload: Workload, header: int) -> Table:
    """Peak bytes of a workload; header: what the container of the weights adds, exactly.

    The largest over all layers, so a budget on it holds for every layer.
    """
    size = bill.size(space, header=header)
    return Table(
        unit="byte",
        origin="exact account",
        constant=size.constant,
        terms=size.terms,
        peaks=tuple(_running(space, target, x, workload.batch) for x in space.graph.layers),
    )


def original(graph: Graph, *, workload: Workload) -> float:
    """The same of the float original."""
    tensors = (4 * (count(x.in_shape) + count(x.out_shape)) for x in graph.layers)
    return float(graph.folded_bytes + workload.batch * max(tensors, default=0))


def _running(space: Space, target: Target, layer: Layer, batch: int) -> tuple[Term, ...]:
    """Bytes of a layer's tensors, over the choices that they depend on."""
    at, found = bill.states(space, layer)
    shape = [len(space.choices[i].options) for i in at]
    values = [batch * _tensors(target, s) for s in found.values()]
    return (Term(at=at, values=np.array(values, dtype=np.float64).reshape(shape)),)


def _tensors(target: Target, state: LayerState) -> int:
    """Bytes of input and output of one sample."""
    layer = state.layer
    _, bits = target.computes(state.weight_bits, state.input_bits)
    entering = count(layer.in_shape) * state.ins // layer.ins
    leaving = count(layer.out_shape) * state.outs // layer.weight[0]
    return math.ceil(entering * bits / 8) + 4 * leaving
