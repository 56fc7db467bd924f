"""Arithmetic: what is done to sums before they are quantized: clips, additions, factors."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allot.errors import ModelError
from allot.integer_only.nodes import Attributes
from allot.integer_only.values import Floats, Real, clipped
from allot.integer_only.walk import Outside, Value, Walk


def clip(walk: Walk, node: Any, given: Attributes) -> Value:
    low, high = -math.inf, math.inf
    if node.op_type == "Relu":
        low = 0.0
    else:
        ends = [walk.constant(n) for n in (*node.input[1:], "", "")[:2]]
        low, high = (v if e is None else float(e) for e, v in zip(ends, (low, high), strict=True))
    source = walk.values.get(node.input[0])
    if isinstance(source, Outside):
        return replace(source, low=max(source.low, low), high=min(source.high, high))
    return clipped(walk.draft, walk.real(node.input[0], node), low, high)


def add(walk: Walk, node: Any, given: Attributes) -> Value:
    """A sum that waits: both sides are rescaled where it is quantized."""
    a, b = (_summand(walk, name, node) for name in node.input)
    return Real(summands=(*a.summands, *b.summands), constant=a.constant + b.constant)


def _summand(walk: Walk, name: str, node: Any) -> Real:
    """One side of a sum; a clipped one, or one with a pool, is written before."""
    constant = walk.constant(name)
    if constant is not None:
        return Real(summands=(), constant=_per_channel(constant, node, walk))
    real = walk.real(name, node)
    waits = math.isinf(real.low) and math.isinf(real.high) and not real.pools
    return real if waits else walk.plain(name, node)


def _per_channel(constant: NDArray[Any], node: Any, walk: Walk) -> Floats:
    """A constant beside a tensor [b, c, ...] as [c] or [1]; raises ModelError for another shape."""
    rank = len(walk.draft.shape(node.output[0])) + 1
    shape = (1,) * (rank - constant.ndim) + constant.shape
    if math.prod(shape) != constant.size or any(n != 1 for i, n in enumerate(shape) if i != 1):
        raise ModelError(
            f"{node.op_type} {node.output[0]} takes a constant {list(constant.shape)}; one number, "
            "or one per channel, has an integer form"
        )
    return constant.astype(np.float64).reshape(-1)


def scaled(walk: Walk, node: Any, given: Attributes) -> Value:
    constants = [walk.constant(n) for n in node.input]
    factor = next((c for c in constants if c is not None), None)
    if factor is None:
        raise ModelError(
            f"Mul {node.output[0]} multiplies two tensors, which has no integer form; leave out "
            "what gates channels or tokens"
        )
    name = node.input[0] if constants[0] is None else node.input[1]
    real, by = _summand(walk, name, node), _per_channel(factor, node, walk)
    summands = tuple(replace(s, scale=s.scale * by) for s in real.summands)
    return Real(summands=summands, constant=real.constant * by)
