"""Kernels: the nodes that ONNX Runtime computes in int8, for a convolution, a sum and a linear.

Products are added up exactly in 32 bits; the result is rounded once, as QuantizeLinear of the float
result is.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np

from allot.runtimes.lowering.draft import DOMAIN, Codes, Draft
from allot.runtimes.lowering.moving import codes_of
from allot.runtimes.lowering.weights import CodedWeight, conv_weight, matrix, sum_bias

# measured: over 3 channels 3x3 takes 1.1 to 1.9 times as long as in float, 7x7 0.8 times, over 4
# channels 3x3 0.5 to 1.0 times; depthwise 0.4 times, in groups of 4 or 16 channels 1.0 to 3 times
_CHANNELS, _AREA = 8, 49


def convolution(draft: Draft, node: Any, out: Codes) -> tuple[list[Any], Codes] | None:
    """Nodes that make the codes `out` of a convolution, and the codes; None where it stays float.

    The kernel wants the channels last.
    """
    from onnx import helper

    x, weight = codes_of(draft, node.input[0]), conv_weight(draft, node.input[1])
    if x is None or weight is None or weight.codes.ndim != 4:
        return None
    groups = next((a.i for a in node.attribute if a.name == "group"), 1)
    if not _pays(weight.codes.shape, groups):
        return None
    bias = np.zeros(len(weight.scale), dtype=np.float32)
    if len(node.input) > 2 and node.input[2]:
        given = draft.value(node.input[2])
        if given is None:
            return None
        bias = given
    sums = sum_bias(bias, weight, scale=x.scale, step=out.scale)
    if sums is None:
        return None
    name, x = out.name, draft.turned(x, last=True)
    inputs = [x.name, x.scale_name, x.zero_name, *_weight(draft, name, weight)]
    inputs += [out.scale_name, out.zero_name, draft.constant(f"{name}.bias", sums)]
    new = helper.make_node("QLinearConv", inputs, [name], domain=DOMAIN, channels_last=1)
    new.attribute.extend(node.attribute)
    return [new], replace(out, last=True)


def _pays(shape: tuple[int, ...], groups: int) -> bool:
    """Whether a convolution with a weight of this shape is faster in int8."""
    channels, area = shape[1], math.prod(shape[2:])
    if groups > 1:
        return channels == 1
    return channels >= _CHANNELS or channels % 4 == 0 or area >= _AREA


def _weight(draft: Draft, name: str, weight: CodedWeight) -> list[str]:
    zeros = np.zeros(len(weight.scale), dtype=np.int8)
    return [
        draft.constant(f"{name}.weight", weight.codes),
        draft.constant(f"{name}.weight.scale", weight.scale),
        draft.constant(f"{name}.weight.zero", zeros),
    ]


def addition(draft: Draft, node: Any, out: Codes) -> tuple[list[Any], Codes] | None:
    """Nodes that make the codes `out` of a sum of two tensors of codes, and the codes; None
    elsewhere."""
    from onnx import helper

    a, b = (codes_of(draft, x) for x in node.input)
    if a is None or b is None:
        return None
    last = draft.is_paired(a) and draft.is_paired(b)
    a, b = draft.turned(a, last=last), draft.turned(b, last=last)
    inputs = [a.name, a.scale_name, a.zero_name, b.name, b.scale_name, b.zero_name]
    inputs += [out.scale_name, out.zero_name]
    return [helper.make_node("QLinearAdd", inputs, [out.name], domain=DOMAIN)], replace(
        out, last=last
    )


def linear(draft: Draft, node: Any) -> None:
    """Puts a linear into int8, in place; leaves what it cannot.

    Its result is float: a kernel that makes codes (QGemm) is no faster than this one and
    QuantizeLinear, and takes its bias in whole units of the sums.
    """
    from onnx import helper

    x, weight = _factors(draft, node)
    if x is None or weight is None:
        return
    last, bias = node, node.input[2] if len(node.input) > 2 else ""
    if node.op_type == "MatMul":
        last, bias = _biased(draft, node, len(weight.scale))
    elif bias and _shape(draft, bias) != (len(weight.scale),):
        return
    name = last.output[0]
    codes, scale, zero = _weight(draft, f"{name}.linear", weight)
    inputs = [x.name, codes, x.scale_name, scale, x.zero_name, zero]
    new = helper.make_node(
        "MatMulIntegerToFloat", [*inputs, bias] if bias else inputs, [name], domain=DOMAIN
    )
    draft.replace(last, [new])


def _factors(draft: Draft, node: Any) -> tuple[Codes | None, CodedWeight | None]:
    """Codes of the input and of the weight of a Gemm without factors or a MatMul."""
    settings = {a.name: a.f if a.type == a.FLOAT else a.i for a in node.attribute}
    if any(settings.get(k, 1) != 1 for k in ("alpha", "beta")) or settings.get("transA", 0):
        return None, None
    weight = matrix(draft, node.input[1], turned=bool(settings.get("transB", 0)))
    return (None, None) if weight is None else (codes_of(draft, node.input[0]), weight)


def _biased(draft: Draft, node: Any, size: int) -> tuple[Any, str]:
    """The node that adds a constant [out] to a product and the constant's name, else the product
    itself and ""."""
    reader = draft.only_reader(node.output[0])
    if reader is not None and reader.op_type == "Add":
        for other in reader.input:
            if other != node.output[0] and _shape(draft, other) == (size,):
                return reader, other
    return node, ""


def _shape(draft: Draft, name: str) -> tuple[int, ...] | None:
    value = draft.value(name)
    return None if value is None else value.shape
