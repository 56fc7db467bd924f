"""Pointwise: ONNX operators that work on every element by itself, and softmax."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

TYPES: Mapping[int, torch.dtype] = {
    1: torch.float32,
    2: torch.uint8,
    3: torch.int8,
    5: torch.int16,
    6: torch.int32,
    7: torch.int64,
    9: torch.bool,
    10: torch.float16,
    11: torch.float64,
    16: torch.bfloat16,
}


def divide(a: Tensor, b: Tensor) -> Tensor:
    """Whole numbers are divided towards zero."""
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def modulo(a: Tensor, b: Tensor, *, fmod: int = 0) -> Tensor:
    return torch.fmod(a, b) if fmod else torch.remainder(a, b)


def power(a: Tensor, b: Tensor) -> Tensor:
    return torch.pow(a, b).to(a.dtype)


def largest(*x: Tensor) -> Tensor:
    return functools.reduce(torch.maximum, x)


def least(*x: Tensor) -> Tensor:
    return functools.reduce(torch.minimum, x)


def total(*x: Tensor) -> Tensor:
    return functools.reduce(torch.add, x)


def clip(x: Tensor, low: Any = None, high: Any = None) -> Tensor:
    return x if low is None and high is None else torch.clamp(x, low, high)


def cast(x: Tensor, *, to: int, saturate: int = 1) -> Tensor:
    return x.to(TYPES[to])


def cast_like(x: Tensor, y: Tensor, *, saturate: int = 1) -> Tensor:
    return x.to(y.dtype)


def identity(x: Tensor) -> Tensor:
    return x


def elu(x: Tensor, *, alpha: float = 1.0) -> Tensor:
    return F.elu(x, alpha)


def leaky(x: Tensor, *, alpha: float = 0.01) -> Tensor:
    return F.leaky_relu(x, alpha)


def hard_sigmoid(x: Tensor, *, alpha: float = 0.2, beta: float = 0.5) -> Tensor:
    return torch.clamp(alpha * x + beta, 0, 1)


def prelu(x: Tensor, slope: Tensor) -> Tensor:
    return torch.where(x < 0, slope * x, x)


def gelu(x: Tensor, *, approximate: str = "none") -> Tensor:
    return F.gelu(x, approximate=approximate)


def softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return torch.softmax(x, axis)


def log_softmax(x: Tensor, *, axis: int = -1) -> Tensor:
    return torch.log_softmax(x, axis)


OPERATORS: Mapping[str, Callable[..., Tensor]] = {
    "Abs": torch.abs,
    "Add": torch.add,
    "And": torch.logical_and,
    "Cast": cast,
    "CastLike": cast_like,
    "Ceil": torch.ceil,
    "Clip": clip,
    "Cos": torch.cos,
    "Div": divide,
    "Elu": elu,
    "Equal": torch.eq,
    "Erf": torch.erf,
    "Exp": torch.exp,
    "Floor": torch.floor,
    "Gelu": gelu,
    "Greater": torch.gt,
    "GreaterOrEqual": torch.ge,
    "HardSigmoid": hard_sigmoid,
    "HardSwish": F.hardswish,
    "Identity": identity,
    "IsNaN": torch.isnan,
    "LeakyRelu": leaky,
    "Less": torch.lt,
    "LessOrEqual": torch.le,
    "Log": torch.log,
    "LogSoftmax": log_softmax,
    "Max": largest,
    "Min": least,
    "Mish": F.mish,
    "Mod": modulo,
    "Mul": torch.mul,
    "Neg": torch.neg,
    "Not": torch.logical_not,
    "Or": torch.logical_or,
    "PRelu": prelu,
    "Pow": power,
    "Reciprocal": torch.reciprocal,
    "Relu": torch.relu,
    "Round": torch.round,
    "Sigmoid": torch.sigmoid,
    "Sign": torch.sign,
    "Sin": torch.sin,
    "Softmax": softmax,
    "Softplus": F.softplus,
    "Sqrt": torch.sqrt,
    "Sub": torch.sub,
    "Sum": total,
    "Tanh": torch.tanh,
    "Where": torch.where,
}
