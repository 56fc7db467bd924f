"""Layers: ONNX operators that multiply, normalize, pool and resize."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from allot.errors import ModelError

Ints = Sequence[int]
_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TURNED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_MEAN = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def even(pads: Ints | None, dims: int) -> tuple[int, ...] | None:
    """The padding of each dim, () for none, None where beginnings and ends differ."""
    pads = tuple(pads) if pads else (0,) * (2 * dims)
    return pads[:dims] if pads[:dims] == pads[dims:] else None


def padded(x: Tensor, pads: Ints | None, dims: int, value: float = 0.0) -> Tensor:
    """The input with beginnings and ends of its last dims filled up."""
    pairs = [(pads[d], pads[d + dims]) for d in range(dims)] if pads else []
    return F.pad(x, [v for p in reversed(pairs) for v in p], value=value)


def conv(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, kernel_shape: Ints = (),
    strides: Ints | None = None, pads: Ints | None = None, dilations: Ints | None = None,
    group: int = 1,
) -> Tensor:  # fmt: skip
    dims = x.dim() - 2
    padding = even(pads, dims)
    if padding is None:
        x, padding = padded(x, pads, dims), (0,) * dims
    stride, dilation = tuple(strides or (1,) * dims), tuple(dilations or (1,) * dims)
    return _CONV[dims](x, weight, bias, stride, padding, dilation, group)


def conv_transpose(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, *, kernel_shape: Ints = (),
    strides: Ints | None = None, pads: Ints | None = None, dilations: Ints | None = None,
    group: int = 1, output_padding: Ints | None = None,
) -> Tensor:  # fmt: skip
    dims = x.dim() - 2
    padding = even(pads, dims)
    if padding is None:
        raise ModelError("a transposed convolution with uneven pads does not run in torch")
    stride, dilation = tuple(strides or (1,) * dims), tuple(dilations or (1,) * dims)
    more = tuple(output_padding or (0,) * dims)
    return _TURNED[dims](x, weight, bias, stride, padding, more, group, dilation)


def gemm(
    a: Tensor, b: Tensor, c: Tensor | None = None, *, alpha: float = 1.0, beta: float = 1.0,
    transA: int = 0, transB: int = 0,
) -> Tensor:  # fmt: skip
    a = a.t() if transA else a
    if alpha == 1 and transB and (c is None or (beta == 1 and c.dim() == 1)):
        return F.linear(a, b, c)
    found = a @ (b.t() if transB else b)
    found = found if alpha == 1 else alpha * found
    return found if c is None else found + (c if beta == 1 else beta * c)


def einsum(*x: Tensor, equation: str) -> Tensor:
    return torch.einsum(equation, *x)


def layer_norm(
    x: Tensor, scale: Tensor, bias: Tensor | None = None, *, axis: int = -1,
    epsilon: float = 1e-5, stash_type: int = 1,
) -> Tensor:  # fmt: skip
    return F.layer_norm(x, x.shape[axis:], scale, bias, epsilon)


def instance_norm(x: Tensor, scale: Tensor, bias: Tensor, *, epsilon: float = 1e-5) -> Tensor:
    return F.instance_norm(x, weight=scale, bias=bias, eps=epsilon)


def group_norm(
    x: Tensor, scale: Tensor, bias: Tensor, *, num_groups: int, epsilon: float = 1e-5,
    stash_type: int = 1,
) -> Tensor:  # fmt: skip
    """scale, bias: a number per channel (opset 21)."""
    return F.group_norm(x, num_groups, scale, bias, epsilon)


def batch_norm(
    x: Tensor, scale: Tensor, bias: Tensor, mean: Tensor, var: Tensor, *, epsilon: float = 1e-5,
    momentum: float = 0.9, training_mode: int = 0,
) -> Tensor:  # fmt: skip
    return F.batch_norm(x, mean, var, scale, bias, training=False, eps=epsilon)


def max_pool(
    x: Tensor, *, kernel_shape: Ints, strides: Ints | None = None, pads: Ints | None = None,
    dilations: Ints | None = None, ceil_mode: int = 0, storage_order: int = 0,
) -> Tensor:  # fmt: skip
    dims = x.dim() - 2
    padding = even(pads, dims)
    if padding is None:
        x, padding = padded(x, pads, dims, value=-torch.inf), (0,) * dims
    stride, dilation = tuple(strides or (1,) * dims), tuple(dilations or (1,) * dims)
    kernel = tuple(kernel_shape)
    return _MAX[dims](x, kernel, stride, padding, dilation, bool(ceil_mode))


def average_pool(
    x: Tensor, *, kernel_shape: Ints, strides: Ints | None = None, pads: Ints | None = None,
    ceil_mode: int = 0, count_include_pad: int = 0,
) -> Tensor:  # fmt: skip
    dims = x.dim() - 2
    padding = even(pads, dims)
    if padding is None:
        raise ModelError("average pooling with uneven pads does not run in torch")
    kernel, stride = tuple(kernel_shape), tuple(strides or (1,) * dims)
    return _MEAN[dims](x, kernel, stride, padding, bool(ceil_mode), bool(count_include_pad))


def global_average(x: Tensor) -> Tensor:
    return x.mean(dim=tuple(range(2, x.dim())), keepdim=True)


def global_max(x: Tensor) -> Tensor:
    return x.amax(dim=tuple(range(2, x.dim())), keepdim=True)


def resize(
    x: Tensor, region: Any = None, scales: Any = None, sizes: Any = None, *,
    mode: str = "nearest", coordinate_transformation_mode: str = "half_pixel",
    nearest_mode: str = "round_prefer_floor", antialias: int = 0, cubic_coeff_a: float = -0.75,
    exclude_outside: int = 0, extrapolation_value: float = 0.0,
    keep_aspect_ratio_policy: str = "stretch",
) -> Tensor:  # fmt: skip
    """Of the last two dims; raises ModelError for the ways of ONNX that torch has not."""
    way = (mode, coordinate_transformation_mode)
    known = {
        ("nearest", "asymmetric"): ("nearest", None),
        ("linear", "half_pixel"): ("bilinear", False),
        ("linear", "pytorch_half_pixel"): ("bilinear", False),
        ("linear", "align_corners"): ("bilinear", True),
        ("cubic", "half_pixel"): ("bicubic", False),
        ("cubic", "align_corners"): ("bicubic", True),
    }
    if way not in known or (mode == "nearest" and nearest_mode != "floor") or antialias:
        raise ModelError(f"Resize by {'/'.join((*way, nearest_mode))} does not run in torch")
    name, corners = known[way]
    if sizes:
        return F.interpolate(x, size=tuple(sizes[2:]), mode=name, align_corners=corners)
    return F.interpolate(x, scale_factor=tuple(scales[2:]), mode=name, align_corners=corners)


OPERATORS: Mapping[str, Callable[..., Any]] = {
    "AveragePool": average_pool,
    "BatchNormalization": batch_norm,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "Einsum": einsum,
    "Gemm": gemm,
    "GlobalAveragePool": global_average,
    "GlobalMaxPool": global_max,
    "GroupNormalization": group_norm,
    "InstanceNormalization": instance_norm,
    "LayerNormalization": layer_norm,
    "MatMul": torch.matmul,
    "MaxPool": max_pool,
    "Resize": resize,
}
