"""Layers: a quantized input times an integer weight as int32 sums that provably fit 32 bits."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from allot.errors import ModelError
from allot.integer_only.graph import Convolution, Product, Span, Window
from allot.integer_only.values import Draft, Floats, Real, Summand

MOST = 2**31 - 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Weight:
    """An integer weight [out, ...] with one scale per output channel [out]."""

    layer: str
    codes: NDArray[np.int8]
    scale: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class _Sums:
    """bias: int32 [out].  left: what of the bias its rounding leaves, real [out]."""

    bias: NDArray[np.int32]
    left: Floats
    scale: Floats
    span: Span


def convolution(
    draft: Draft, entering: Summand, weight: Weight, *, bias: Floats, window: Window, groups: int,
    output: str,
) -> Real:  # fmt: skip
    """Writes a convolution; its sums as a real tensor.  Raises ModelError where they overflow."""
    found = _sums(draft, entering, weight, bias)
    operation = Convolution(
        layer=weight.layer, input=entering.tensor, output=output, zero=entering.zero,
        codes=weight.codes, bias=found.bias, window=window, groups=groups,
    )  # fmt: skip
    draft.add(operation, found.span, "int32")
    return _real(output, found)


def product(draft: Draft, entering: Summand, weight: Weight, *, bias: Floats, output: str) -> Real:
    """Writes a linear layer; its sums as a real tensor.  Raises ModelError where they overflow."""
    found = _sums(draft, entering, weight, bias)
    operation = Product(
        layer=weight.layer, input=entering.tensor, output=output, zero=entering.zero,
        codes=weight.codes, bias=found.bias,
    )  # fmt: skip
    draft.add(operation, found.span, "int32")
    return _real(output, found)


def _real(output: str, found: _Sums) -> Real:
    summand = Summand(tensor=output, zero=0, scale=found.scale)
    return Real(summands=(summand,), constant=found.left)


def _sums(draft: Draft, entering: Summand, weight: Weight, bias: Floats) -> _Sums:
    """Scale, bias and span of the sums: proven for the codes as they are and every input, and of
    partial sums in any order.

    What the rounding of a bias to its channel's scale leaves is added in the rescale, and all of
    it where it would not fit beside the sums.
    """
    low, high = (end - entering.zero for end in draft.spans[entering.tensor])
    # a padded place holds the zero point, which no input needs to reach
    low, high = min(low, 0), max(high, 0)
    rows = weight.codes.reshape(len(weight.codes), -1).astype(np.int64)
    most = np.abs(rows).sum(1) * max(high, -low)
    if most.max() > MOST:
        row = int(most.argmax())
        raise ModelError(
            f"the sums of {weight.layer} can reach {most[row]} in channel {row} ({rows.shape[1]} "
            f"products), beyond the {MOST} of 32 bits; give its weight or its input fewer bits"
        )
    scale = weight.scale * entering.scale
    whole = np.rint(bias / scale)
    fits = np.abs(whole) + most <= MOST
    whole = np.where(fits, whole, 0).astype(np.int64)
    up, down = rows.clip(0, None).sum(1), rows.clip(None, 0).sum(1)
    least, largest = up * low + down * high + whole, up * high + down * low + whole
    return _Sums(
        bias=whole.astype(np.int32),
        left=bias - whole * scale,
        scale=scale,
        span=(int(least.min()), int(largest.max())),
    )
