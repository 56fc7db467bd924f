"""Weights: constant int8 codes behind a DequantizeLinear, and biases on the grid of the sums."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allot.runtimes.lowering.draft import Draft

_MOST = 2**31 - 1


@dataclass(frozen=True, kw_only=True, eq=False)
class CodedWeight:
    """codes int8 in the form in which the node reads it; scale f32 [out]."""

    codes: NDArray[np.int8]
    scale: NDArray[np.float32]


def conv_weight(draft: Draft, name: str) -> CodedWeight | None:
    """A convolution's weight [out, in, ...] where it is stored in symmetric int8 codes."""
    found = _dequantized(draft, name)
    return None if found is None or found[1] not in (0, None) else _coded(found[0], 0)


def matrix(draft: Draft, name: str, *, turned: bool) -> CodedWeight | None:
    """A linear's weight as codes [in, out]; turned: the tensor is [out, in]."""
    node = draft.made_by.get(name)
    if node is not None and node.op_type == "Transpose":
        order = next((tuple(a.ints) for a in node.attribute if a.name == "perm"), (1, 0))
        return matrix(draft, node.input[0], turned=not turned) if order == (1, 0) else None
    found = _dequantized(draft, name)
    if found is None or found[0][0].ndim != 2 or found[1] not in (None, 0 if turned else 1):
        return None
    (codes, scale), _ = found
    return _coded((codes.T if turned else codes, scale), 1)


def _coded(of: tuple[NDArray[Any], NDArray[Any]], dim: int) -> CodedWeight:
    codes, scale = of
    wide = np.broadcast_to(scale.astype(np.float32).reshape(-1), codes.shape[dim])
    return CodedWeight(codes=np.ascontiguousarray(codes), scale=np.ascontiguousarray(wide))


def _dequantized(
    draft: Draft, name: str
) -> tuple[tuple[NDArray[Any], NDArray[Any]], int | None] | None:
    """(codes, scale) and the dim of the scales, None for one scale of the whole."""
    node = draft.made_by.get(name)
    if node is None or node.op_type != "DequantizeLinear":
        return None
    codes, scale = draft.value(node.input[0]), draft.value(node.input[1])
    zero = draft.value(node.input[2]) if len(node.input) > 2 else np.zeros(1)
    if codes is None or scale is None or zero is None or codes.dtype != np.int8:
        return None
    if zero.any() or scale.ndim > 1 or any(a.name == "block_size" and a.i for a in node.attribute):
        return None
    axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
    return (codes, scale), None if scale.size == 1 else axis % codes.ndim


def sum_bias(
    bias: NDArray[Any], weight: CodedWeight, *, scale: float, step: float
) -> NDArray[np.int32] | None:
    """The bias [out] in units of the integer sums, scale * weight.scale; None where it would not
    fit into 32 bits beside the sums, or where a unit is no small part of the output's step."""
    unit = np.float64(scale) * weight.scale.astype(np.float64)
    found = np.rint(bias.astype(np.float64) / unit)
    longest = weight.codes.size // len(weight.scale)
    if (np.abs(found) + 255 * 128 * longest > _MOST).any():
        return None
    # half a unit is what rounding the bias may cost
    if bias.any() and unit[bias != 0].max() > step / 8:
        return None
    return found.astype(np.int32)
