"""Moves: pools, and what only moves elements: slices, padding, other shapes, concatenation."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from numpy.typing import NDArray

from allot.errors import ModelError
from allot.integer_only.graph import Concat, MaxPool, Pad, Reshape, Slice, Window, WindowSum
from allot.integer_only.nodes import Attributes, window
from allot.integer_only.values import Draft, Real, as_plain, plain, wide_step

Constants = Sequence[NDArray[Any] | None]


def _real(found: Real, tensor: str, factor: float = 1.0) -> Real:
    """The same scale (times a factor) and zero point on another tensor."""
    one = found.summands[0]
    return Real(summands=(replace(one, tensor=tensor, scale=one.scale * factor),))


def max_pool(
    draft: Draft, node: Any, given: Attributes, reals: Sequence[Real], constants: Constants
) -> Real:
    """Of codes at once; of sums that wait, after they were quantized."""
    source, where = reals[0], window(given, node)
    if not plain(source) or draft.kinds[source.summands[0].tensor] != "uint8":
        return replace(source, pools=(*source.pools, where))
    tensor = source.summands[0].tensor
    operation = MaxPool(input=tensor, output=node.output[0], window=where)
    draft.add(operation, draft.spans[tensor], "uint8")
    return _real(source, node.output[0])


def average_pool(
    draft: Draft, node: Any, given: Attributes, reals: Sequence[Real], constants: Constants
) -> Real:
    """The sum of every window, at its scale over the area."""
    where = window(given, node)
    counted = given.get("count_include_pad", 0) or not any(where.padding)
    if where.ceil or not counted:
        raise ModelError(
            f"AveragePool {node.output[0]} averages over windows of several sizes, which has no "
            "integer form; count the padding and leave ceil_mode out"
        )
    return _averaged(draft, node, reals[0], where, output=node.output[0])


def mean(
    draft: Draft, node: Any, given: Attributes, reals: Sequence[Real], constants: Constants
) -> Real:
    """The mean over all of [h, w]: GlobalAveragePool, or ReduceMean over the last two dims."""
    shape = draft.shape(node.input[0])
    whole = node.op_type == "GlobalAveragePool"
    listed = constants[0] if constants and constants[0] is not None else given.get("axes", ())
    dims = [2, 3] if whole else [int(d) for d in listed]
    if len(shape) != 3 or sorted(d % 4 for d in dims) != [2, 3]:
        raise ModelError(
            f"{node.op_type} {node.output[0]} takes a mean over dims {dims}; only one over the "
            "height and width of [n, c, h, w] has an integer form"
        )
    keeps = whole or given.get("keepdims", 1)
    size = (shape[1], shape[2])
    summed = f"{node.output[0]}.summed" if not keeps else node.output[0]
    found = _averaged(draft, node, reals[0], Window(kernel=size), output=summed)
    return found if keeps else _reshaped(draft, found, node.output[0], (shape[0],))


def _averaged(draft: Draft, node: Any, source: Real, where: Window, *, output: str) -> Real:
    found = as_plain(draft, source, name=node.input[0])
    one, shape = found.summands[0], draft.shape(node.input[0])
    area = math.prod(where.kernel)
    low, high = (area * (end - one.zero) for end in draft.spans[one.tensor])
    operation = WindowSum(
        input=one.tensor, output=output, zero=one.zero, window=where, size=(shape[1], shape[2])
    )
    draft.add(operation, (min(low, 0), max(high, 0)), "int64")
    summand = replace(one, tensor=output, zero=0, scale=one.scale / area)
    return Real(summands=(summand,))


def cut(
    draft: Draft, node: Any, given: Attributes, reals: Sequence[Real], constants: Constants
) -> Real:
    """A part of the channels, rows or columns."""
    if any(c is None for c in constants):
        raise ModelError(f"Slice {node.output[0]} cuts at places known only at run time")
    starts, ends, *rest = ([int(v) for v in c.reshape(-1)] for c in constants if c is not None)
    dims = rest[0] if rest else list(range(len(starts)))
    steps = rest[1] if len(rest) > 1 else [1] * len(starts)
    sizes = (math.inf, *draft.shape(node.input[0]))
    rows = [
        (d % len(sizes), a, b, s)
        for d, a, b, s in zip(dims, starts, ends, steps, strict=True)
        if (a, s) != (0, 1) or b < min(sizes[d], 2**31)
    ]
    if any(d == 0 or s < 1 for d, _, _, s in rows):
        raise ModelError(f"Slice {node.output[0]} cuts the batch or runs backwards")
    if not rows:
        return reals[0]
    found = as_plain(draft, reals[0], name=node.input[0])
    tensor = found.summands[0].tensor
    operation = Slice(
        input=tensor, output=node.output[0], dims=tuple(r[0] for r in rows),
        starts=tuple(r[1] for r in rows), ends=tuple(r[2] for r in rows),
        steps=tuple(r[3] for r in rows),
    )  # fmt: skip
    draft.add(operation, draft.spans[tensor], draft.kinds[tensor])
    return _real(found, node.output[0])


def pad(
    draft: Draft, node: Any, given: Attributes, reals: Sequence[Real], constants: Constants
) -> Real:
    """Zeros around channels, rows or columns: the zero point, in codes."""
    pads, value = (*constants, None, None)[:2]
    dims = constants[2] if len(constants) > 2 else None
    rank = len(draft.shape(node.input[0])) + 1
    zeros = value is None or not value.any()
    whole = dims is None or dims.tolist() == list(range(rank))
    fixed = pads is not None and not (pads[0] or pads[rank]) and (pads >= 0).all()
    if given.get("mode", b"constant") != b"constant" or not (zeros and whole and fixed):
        raise ModelError(
            f"Pad {node.output[0]} has no integer form; padding with a fixed number of zeros has"
        )
    assert pads is not None
    found = as_plain(draft, reals[0], name=node.input[0])
    one = found.summands[0]
    low, high = draft.spans[one.tensor]
    kind = draft.kinds[one.tensor]
    operation = Pad(
        input=one.tensor, output=node.output[0], pads=tuple(pads.tolist()), value=one.zero,
        kind=kind,
    )  # fmt: skip
    draft.add(operation, (min(low, one.zero), max(high, one.zero)), kind)
    return _real(found, node.output[0])


def reshape(
    draft: Draft, node: Any, given: Attributes, reals: Sequence[Real], constants: Constants
) -> Real:
    """Another shape of every sample."""
    before, after = draft.shape(node.input[0]), draft.shape(node.output[0])
    if math.prod(before) != math.prod(after):
        raise ModelError(f"{node.op_type} {node.output[0]} moves elements between samples")
    found = as_plain(draft, reals[0], name=node.input[0])
    return _reshaped(draft, found, node.output[0], after)


def _reshaped(draft: Draft, found: Real, output: str, shape: tuple[int, ...]) -> Real:
    tensor = found.summands[0].tensor
    operation = Reshape(input=tensor, output=output, shape=shape)
    draft.add(operation, draft.spans[tensor], draft.kinds[tensor])
    return _real(found, output)


def concat(
    draft: Draft, node: Any, given: Attributes, reals: Sequence[Real], constants: Constants
) -> Real:
    """All parts brought to one scale, the finest that the largest of them fits."""
    dim = int(given["axis"]) % (len(draft.shape(node.output[0])) + 1)
    if dim == 0:
        raise ModelError(f"Concat {node.output[0]} joins samples, which has no integer form")
    step = max(wide_step(draft, r) for r in reals)
    parts = [as_plain(draft, r, name=n, step=step) for n, r in zip(node.input, reals, strict=True)]
    inputs = tuple(p.summands[0].tensor for p in parts)
    spans = [draft.spans[n] for n in inputs]
    span = min(a for a, _ in spans), max(b for _, b in spans)
    draft.add(Concat(inputs=inputs, output=node.output[0], dim=dim), span, "int32")
    return _real(parts[0], node.output[0])


def same(
    draft: Draft, node: Any, given: Attributes, reals: Sequence[Real], constants: Constants
) -> Real:
    return reals[0]


Move = Callable[[Draft, Any, Attributes, Sequence[Real], Constants], Real]
MOVES: dict[str, Move] = {
    "AveragePool": average_pool, "Concat": concat, "Flatten": reshape, "GlobalAveragePool": mean,
    "Identity": same, "MaxPool": max_pool, "Pad": pad, "ReduceMean": mean, "Reshape": reshape,
    "Slice": cut, "Squeeze": reshape,
}  # fmt: skip
