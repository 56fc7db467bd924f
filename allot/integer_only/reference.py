"""Reference: an integer graph computed in NumPy, plainly; shares no code with what writes files."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allot.integer_only.graph import (
    Concat,
    Convolution,
    IntegerGraph,
    MaxPool,
    Operation,
    Pad,
    Product,
    Rescale,
    Reshape,
    Slice,
    Window,
    WindowSum,
)
from allot.num.dyadic import Integers, shifted

Tensors = Mapping[str, Integers]


def run(graph: IntegerGraph, inputs: Mapping[str, NDArray[Any]]) -> dict[str, Integers]:
    """Outputs by name, int64, for codes by name of the input [n, ...]."""
    tensors = everything(graph, inputs)
    return {p.name: tensors[p.tensor] for p in graph.outputs}


def everything(graph: IntegerGraph, inputs: Mapping[str, NDArray[Any]]) -> dict[str, Integers]:
    """Every tensor of the graph, int64."""
    tensors = {p.tensor: inputs[p.name].astype(np.int64) for p in graph.inputs}
    for operation in graph.operations:
        tensors[operation.output] = _RULES[type(operation)](operation, tensors)
    return tensors


def _convolution(op: Convolution, tensors: Tensors) -> Integers:
    """By matrix products in float64, exact: the sums stay below 2^31, in any order."""
    x = _padded((tensors[op.input] - op.zero).astype(np.float64), op.window, 0)
    seen = _windows(x, op.window)
    n, channels, rows, columns = seen.shape[:4]
    each, out = channels // op.groups, len(op.codes) // op.groups
    parts = []
    for g in range(op.groups):
        taken = seen[:, g * each : (g + 1) * each].transpose(0, 1, 4, 5, 2, 3)
        weight = op.codes[g * out : (g + 1) * out].reshape(out, -1).astype(np.float64)
        parts.append(weight @ taken.reshape(n, weight.shape[1], rows * columns))
    y = np.concatenate(parts, axis=1).astype(np.int64) + op.bias[:, None]
    return y.reshape(n, -1, rows, columns)


def _product(op: Product, tensors: Tensors) -> Integers:
    return (tensors[op.input] - op.zero) @ op.codes.astype(np.int64).T + op.bias


def _rescale(op: Rescale, tensors: Tensors) -> Integers:
    def along(x: Integers) -> Integers:
        return x if op.rank == 1 else x.reshape(-1, *[1] * (op.rank - 2))

    total = along(op.offset)
    for t in op.terms:
        total = total + (tensors[t.tensor] - t.zero) * along(t.factors)
    return (shifted(total, along(op.shift)) + op.zero).clip(op.low, op.high)


def _max_pool(op: MaxPool, tensors: Tensors) -> Integers:
    x, where = tensors[op.input], op.window
    rows, columns = where.places((x.shape[2], x.shape[3]))
    lowest = np.iinfo(np.int64).min
    # windows that hang over read the lowest number there is, which is never the largest
    over = [(0, k * d) for k, d in zip(where.kernel, where.dilation, strict=True)]
    x = np.pad(_padded(x, where, lowest), ((0, 0), (0, 0), *over), constant_values=lowest)
    return _windows(x, where)[:, :, :rows, :columns].max(axis=(4, 5))


def _window_sum(op: WindowSum, tensors: Tensors) -> Integers:
    return _windows(_padded(tensors[op.input] - op.zero, op.window, 0), op.window).sum((4, 5))


def _padded(x: NDArray[Any], window: Window, value: int) -> NDArray[Any]:
    top, left, bottom, right = window.padding
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=value)


def _windows(x: NDArray[Any], window: Window) -> NDArray[Any]:
    """Every window of x [n, c, h, w] as [n, c, h', w', kh, kw]."""
    (kh, kw), (dh, dw), (sh, sw) = window.kernel, window.dilation, window.stride
    whole = ((kh - 1) * dh + 1, (kw - 1) * dw + 1)
    views = np.lib.stride_tricks.sliding_window_view(x, whole, axis=(2, 3))
    return views[:, :, ::sh, ::sw, ::dh, ::dw]


def _slice(op: Slice, tensors: Tensors) -> Integers:
    cuts = [slice(None)] * tensors[op.input].ndim
    for d, a, b, s in zip(op.dims, op.starts, op.ends, op.steps, strict=True):
        cuts[d] = slice(a, b, s)
    return tensors[op.input][tuple(cuts)]


def _pad(op: Pad, tensors: Tensors) -> Integers:
    rank = len(op.pads) // 2
    pads = list(zip(op.pads[:rank], op.pads[rank:], strict=True))
    return np.pad(tensors[op.input], pads, constant_values=op.value)


def _reshape(op: Reshape, tensors: Tensors) -> Integers:
    return tensors[op.input].reshape(-1, *op.shape)


def _concat(op: Concat, tensors: Tensors) -> Integers:
    return np.concatenate([tensors[n] for n in op.inputs], axis=op.dim)


_RULES: dict[type[Operation], Callable[[Any, Tensors], Integers]] = {
    Convolution: _convolution, Product: _product, Rescale: _rescale, MaxPool: _max_pool,
    WindowSum: _window_sum, Slice: _slice, Pad: _pad, Reshape: _reshape, Concat: _concat,
}  # fmt: skip
