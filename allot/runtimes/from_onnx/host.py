"""Host: the arithmetic of shapes on whole numbers, which no device needs to see.

A value is a number, or a tuple of numbers where ONNX has a vector. Sizes stay symbols under
torch.compile, and a GPU is never waited for to learn a shape.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor

# a number or a tuple of numbers
Value = Any


def shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Value:
    """The size of a tensor, or a stretch of it."""
    return tuple(x.shape)[start:end]


def gather(x: Value, index: Value, *, axis: int = 0) -> Value:
    return tuple(x[i] for i in index) if isinstance(index, tuple) else x[index]


def cut(
    x: Value, starts: Value, ends: Value, axes: Value = None, steps: Value = None
) -> tuple[Any, ...]:
    return tuple(x[starts[0] : ends[0] : steps[0] if steps else 1])


def concat(*parts: Value, axis: int = 0) -> Value:
    return tuple(v for part in parts for v in part)


def squeeze(x: Value, axes: Value = None) -> Value:
    return x[0] if isinstance(x, tuple) and len(x) == 1 else x


def unsqueeze(x: Value, axes: Value) -> Value:
    return (x,)


def reshape(x: Value, size: Value, *, allowzero: int = 0) -> Value:
    """To a vector, or to a number where the size is empty."""
    flat = x if isinstance(x, tuple) else (x,)
    return flat if len(size) else flat[0]


def cast(x: Value, *, to: int, saturate: int = 1) -> Value:
    """To float32, float16 or float64, or to a whole number."""
    kind = float if to in (1, 10, 11) else int
    # a symbol is left one
    return x if kind is int and not isinstance(x, float) else _each(kind)(x)


def identity(x: Value) -> Value:
    return x


def product(
    x: Value, axes: Value = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0
) -> Value:
    found = math.prod(x)
    return (found,) if keepdims else found


def divide(a: Any, b: Any) -> Any:
    """Of whole numbers that are not negative; of floats as they are."""
    return a / b if isinstance(a, float) or isinstance(b, float) else a // b


def _each(function: Callable[..., Any]) -> Callable[..., Value]:
    """The function for every element, a number read as often as it takes."""

    def apply(*values: Value) -> Value:
        longest = max((len(v) for v in values if isinstance(v, tuple)), default=0)
        if not longest:
            return function(*(v[0] if isinstance(v, tuple) else v for v in values))
        wide = [v if isinstance(v, tuple) and len(v) > 1 else _spread(v, longest) for v in values]
        return tuple(function(*row) for row in zip(*wide, strict=True))

    return apply


def _spread(v: Value, n: int) -> Value:
    return (v[0] if isinstance(v, tuple) else v,) * n


add, sub, mul, div = (_each(f) for f in (operator.add, operator.sub, operator.mul, divide))
largest, least, negative = _each(max), _each(min), _each(operator.neg)
# operators that stay on the host where all they read is there
OPERATORS: Mapping[str, Callable[..., Value]] = {
    "Add": add,
    "Cast": cast,
    "Concat": concat,
    "Div": div,
    "Gather": gather,
    "Identity": identity,
    "Max": largest,
    "Min": least,
    "Mul": mul,
    "Neg": negative,
    "ReduceProd": product,
    "Reshape": reshape,
    "Slice": cut,
    "Squeeze": squeeze,
    "Sub": sub,
    "Unsqueeze": unsqueeze,
}
