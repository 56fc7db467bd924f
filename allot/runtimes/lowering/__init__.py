"""Lowering: from the graph that is stored to the one that ONNX Runtime computes in int8.

The stored graph says what is computed: QuantizeLinear and DequantizeLinear around float operators.
ONNX Runtime has int8 kernels for a convolution whose input and output are quantized, for a sum of
two quantized tensors whose result is quantized, and for a linear whose input is; these stand in
for the operators here.  Everything else stays float, its weights expanded once on load: a
convolution with a float result has a kernel for integers (ConvInteger), which takes six times as
long as float.  The result is that of the stored graph up to the rounding of one step.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from allot.runtimes.lowering.draft import Draft
from allot.runtimes.lowering.kernels import addition, convolution, linear
from allot.runtimes.lowering.moving import applied, grid, named, passes

_KERNELS = {"Conv": convolution, "Add": addition}


def lower(onnx: bytes) -> bytes:
    """The same network with int8 operators where ONNX Runtime has faster ones."""
    draft = Draft(onnx)
    for node in draft.nodes:
        if node.op_type == "QuantizeLinear":
            _quantized(draft, node)
        elif node.op_type in ("MatMul", "Gemm"):
            linear(draft, node)
    return draft.finish()


def _quantized(draft: Draft, node: Any) -> None:
    """Has the operator whose result is quantized make the codes itself, in place."""
    out = grid(draft, node, of=node.input[0])
    if out is None:
        return
    source, chain = _source(draft, node)
    if source is None or source.op_type not in _KERNELS or source.domain:
        return
    name = node.output[0]
    made = _KERNELS[source.op_type](draft, source, replace(out, name=f"{name}.first"))
    if made is None:
        return
    nodes, codes = made
    rest = applied(draft, chain, codes, prefix=name)
    if rest is not None:
        last = replace(rest[1], name=name)
        draft.replace(node, named(draft, [*nodes, *rest[0]], last))


def _source(draft: Draft, node: Any) -> tuple[Any, list[Any]]:
    """What makes the tensor that a node reads, and the nodes in between in their order.

    All of them are read by nobody else; None where there is no such operator.
    """
    chain: list[Any] = []
    name = node.input[0]
    while draft.only_reader(name) is not None:
        source = draft.made_by.get(name)
        if source is None or not passes(source):
            return source, chain
        chain.insert(0, source)
        name = source.input[0]
    return None, []
