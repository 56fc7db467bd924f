"""Codes: ONNX operators between numbers and their integer codes, and on integers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from allot.errors import ModelError
from allot.runtimes.from_onnx.read import Network, Node

# accuracy_level of MatMulNBits: its input on 8-bit integers
_INTEGERS = 4
_REACH = {torch.uint8: (0, 255), torch.int8: (-128, 127), torch.int16: (-(2**15), 2**15 - 1)}


def _along(v: Tensor, x: Tensor, axis: int, block: int) -> Tensor:
    """A scale or zero point as it multiplies x: of the whole, per index or per block of an axis."""
    if v.dim() == 0 or v.numel() == 1:
        return v.reshape(())
    if block:
        return v.repeat_interleave(block, axis).narrow(axis, 0, x.shape[axis])
    return v.reshape([-1 if d == axis % x.dim() else 1 for d in range(x.dim())])


def quantize(
    x: Tensor, scale: Tensor, zero: Tensor | None = None, *, axis: int = 1, block_size: int = 0,
    saturate: int = 1, output_dtype: int = 0,
) -> Tensor:  # fmt: skip
    """Codes of the zero point's type (uint8 without one), halves to even."""
    kind = torch.uint8 if zero is None else zero.dtype
    found = torch.round(x / _along(scale, x, axis, block_size))
    if zero is not None:
        found = found + _along(zero, x, axis, block_size)
    return found.clamp(*_REACH[kind]).to(kind)


def dequantize(
    x: Tensor, scale: Tensor, zero: Tensor | None = None, *, axis: int = 1, block_size: int = 0
) -> Tensor:
    found = x.to(scale.dtype)
    if zero is not None:
        found = found - _along(zero, x, axis, block_size)
    return found * _along(scale, x, axis, block_size)


def dynamic_quantize(x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """uint8 codes, scale and zero point of the range that a tensor has, 0 within it."""
    low, high = x.amin().clamp(max=0), x.amax().clamp(min=0)
    scale = (high - low) / 255
    scale = torch.where(scale == 0, torch.ones_like(scale), scale)
    zero = torch.round(-low / scale).clamp(0, 255)
    return (
        (torch.round(x / scale) + zero).clamp(0, 255).to(torch.uint8),
        scale,
        zero.to(torch.uint8),
    )


def integer_matmul(
    a: Tensor, b: Tensor, a_zero: Tensor | None = None, b_zero: Tensor | None = None
) -> Tensor:
    """int32 products of codes less their zero points, multiplied as whole numbers in float64."""
    left = a.double() if a_zero is None else a.double() - _rows(a_zero)
    right = b.double() if b_zero is None else b.double() - b_zero.double()
    return (left @ right).to(torch.int32)


def _rows(zero: Tensor) -> Tensor:
    return zero.double() if zero.dim() == 0 else zero.double()[:, None]


def integer_matmul_to_float(
    a: Tensor, b: Tensor, a_scale: Tensor, b_scale: Tensor, a_zero: Tensor | None = None,
    b_zero: Tensor | None = None, bias: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """com.microsoft.MatMulIntegerToFloat."""
    found = integer_matmul(a, b, a_zero, b_zero).to(a_scale.dtype) * (a_scale * b_scale)
    return found if bias is None else found + bias


def dynamic_matmul(
    a: Tensor, b: Tensor, b_scale: Tensor, b_zero: Tensor | None = None, bias: Tensor | None = None
) -> Tensor:
    """com.microsoft.DynamicQuantizeMatMul."""
    codes, scale, zero = dynamic_quantize(a)
    return integer_matmul_to_float(codes, b, scale, b_scale, zero, b_zero, bias)


def block_weight(
    packed: Tensor,
    scales: Tensor,
    zeros: Tensor | None,
    *,
    K: int,
    N: int,
    bits: int,
    block_size: int,
) -> Tensor:
    """The float weight [N, K] of com.microsoft.MatMulNBits.

    packed: uint8 [N, blocks, bytes], the lowest bits of a byte first.  scales: [N * blocks].
    zeros: packed in rows of whole bytes, or of the scales' type; 2^(bits - 1) where left out.
    """
    blocks = -(-K // block_size)
    codes = _unpacked(packed.reshape(N, blocks, -1), bits)[..., :block_size].to(scales.dtype)
    middle: Any = float(2 ** (bits - 1))
    if zeros is not None and zeros.dtype == torch.uint8:
        middle = _unpacked(zeros.reshape(N, -1), bits)[:, :blocks, None].to(scales.dtype)
    elif zeros is not None:
        middle = zeros.reshape(N, blocks, 1)
    return ((codes - middle) * scales.reshape(N, blocks, 1)).reshape(N, -1)[:, :K]


def _unpacked(x: Tensor, bits: int) -> Tensor:
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8, device=x.device)
    return ((x[..., None] >> shifts) & (2**bits - 1)).flatten(-2)


def live(x: Tensor, *, group: int) -> Tensor:
    """Each block of the last dim on signed 8-bit integers, scale = max |x| of the block / 127."""
    wide = torch.nn.functional.pad(x, (0, -x.shape[-1] % group)).unflatten(-1, (-1, group))
    scale = wide.abs().amax(-1, keepdim=True) / 127
    codes = torch.round(wide / torch.where(scale == 0, torch.ones_like(scale), scale))
    return (codes * scale).flatten(-2)[..., : x.shape[-1]]


def block_matmul(
    a: Tensor, packed: Tensor, scales: Tensor, zeros: Tensor | None = None,
    groups: Tensor | None = None, bias: Tensor | None = None, *, K: int, N: int, bits: int = 4,
    block_size: int, accuracy_level: int = 0,
) -> Tensor:  # fmt: skip
    """com.microsoft.MatMulNBits, multiplied in float, at level 4 with a rounded input (see `live`).

    Raises ModelError for an order of groups.
    """
    if groups is not None:
        raise ModelError("MatMulNBits with an order of groups (g_idx) does not run in torch")
    weight = block_weight(packed, scales, zeros, K=K, N=N, bits=bits, block_size=block_size)
    a = live(a, group=block_size) if accuracy_level == _INTEGERS else a
    return torch.nn.functional.linear(a, weight.to(a.dtype), bias)


def expanded(network: Network) -> Network:
    """The network with constant weights in blocks made float once, and a plain product for each."""
    nodes, constants = list[Node](), dict(network.constants)
    for node in network.nodes:
        weight = _constant_blocks(node, constants)
        if weight is None:
            nodes.append(node)
            continue
        x, out = node.inputs[0], node.outputs[0]
        bias = node.inputs[5] if len(node.inputs) > 5 else ""
        product = f"{out}/product" if bias else out
        if node.settings.get("accuracy_level", 0) == _INTEGERS:
            settings = {"group": node.settings["block_size"]}
            nodes.append(
                Node(op="allot.Live", inputs=(x,), outputs=(f"{out}/live",), settings=settings)
            )
            x = f"{out}/live"
        constants[f"{out}/weight"] = weight
        nodes.append(Node(op="MatMul", inputs=(x, f"{out}/weight"), outputs=(product,)))
        if bias:
            nodes.append(Node(op="Add", inputs=(product, bias), outputs=(out,)))
    return replace(network, nodes=tuple(nodes), constants=constants)


def _constant_blocks(node: Node, constants: Mapping[str, Tensor]) -> Tensor | None:
    """The float weight [K, N] of a MatMulNBits whose weight is stored; None for what is none."""
    given = (*node.inputs, "", "")
    if node.op != "com.microsoft.MatMulNBits" or any(n and n not in constants for n in given[1:]):
        return None
    if given[4]:
        return None
    packed, scales = constants[given[1]], constants[given[2]]
    sizes = {k: node.settings[k] for k in ("K", "N", "block_size")}
    zeros = constants[given[3]] if given[3] else None
    bits = node.settings.get("bits", 4)
    return block_weight(packed, scales, zeros, bits=bits, **sizes).t().contiguous()


OPERATORS: Mapping[str, Callable[..., Any]] = {
    "DequantizeLinear": dequantize,
    "DynamicQuantizeLinear": dynamic_quantize,
    "MatMulInteger": integer_matmul,
    "QuantizeLinear": quantize,
    "allot.Live": live,
    "com.microsoft.DynamicQuantizeMatMul": dynamic_matmul,
    "com.microsoft.MatMulIntegerToFloat": integer_matmul_to_float,
    "com.microsoft.MatMulNBits": block_matmul,
}
