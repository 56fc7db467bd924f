"""Ports: what an exported file takes and returns, and whether inputs are what it takes."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allot.errors import DataError
from allot.onnx_graph import load_proto
from allot.onnx_lengths import lengths
from allot.target import Arrays

# how the exporter names what is free
_SYMBOL = re.compile(r"\bs\d+\b")


def describe(onnx: bytes) -> dict[str, list[dict[str, Any]]]:
    """Inputs and outputs of an ONNX file as summary.json lists them.

    {"inputs": [{"name", "shape", "dtype"}], "outputs": [...]}; the first dim is "batch", others
    that are free are "length".  An axis that does not take every length is in "ranges" too, as
    [axis, least, most or null].
    """
    from onnx import helper

    proto = load_proto(onnx)
    ends = {"inputs": list(proto.graph.input), "outputs": list(proto.graph.output)}
    values = [v for group in ends.values() for v in group]
    shapes = _named([d.dim_param or d.dim_value for d in _kind(v).shape.dim] for v in values)
    said = lengths(proto).ranges
    entries = iter(
        {
            "name": v.name,
            "shape": shape,
            "dtype": str(helper.tensor_dtype_to_np_dtype(_kind(v).elem_type)),
            **({"ranges": [list(r) for r in said[v.name]]} if v.name in said else {}),
        }
        for v, shape in zip(values, shapes, strict=True)
    )
    return {k: [next(entries) for _ in group] for k, group in ends.items()}


def _kind(value: Any) -> Any:
    return value.type.tensor_type


def _named(shapes: Iterable[list[str | int]]) -> list[list[str | int]]:
    """Shapes whose free axes have names that people read: "batch" the first, then "length"."""
    names: dict[str, str] = {}

    def name(match: re.Match[str]) -> str:
        more = len(names) + 1
        return names.setdefault(match[0], "length" if more == 1 else f"length{more}")

    return [
        ["batch", *(_SYMBOL.sub(name, d) if isinstance(d, str) else d for d in shape[1:])]
        for shape in shapes
    ]


def check_inputs(inputs: Arrays, wanted: list[dict[str, Any]]) -> None:
    """Raises DataError unless names, dtypes, shapes and finiteness are what the network takes."""
    names = [w["name"] for w in wanted]
    if sorted(inputs) != sorted(names):
        raise DataError(f"the network takes {', '.join(names)}; given were {', '.join(inputs)}")
    for w in wanted:
        _check(inputs[w["name"]], w)
    if len({len(inputs[n]) for n in names}) > 1:
        raise DataError(f"inputs {', '.join(names)} differ in their number of samples")


def _check(x: NDArray[np.generic], wanted: Mapping[str, Any]) -> None:
    name, shape = wanted["name"], wanted["shape"]
    if str(x.dtype) != wanted["dtype"]:
        raise DataError(f"{name} has dtype {x.dtype}; the network takes {wanted['dtype']}")
    if len(x.shape) != len(shape) or any(
        isinstance(n, int) and n != m for n, m in zip(shape, x.shape, strict=True)
    ):
        raise DataError(f"{name} has shape {list(x.shape)}; the network takes {shape}")
    if not x.size:
        raise DataError(f"{name} is empty")
    for axis, least, most in wanted.get("ranges", ()):
        if not least <= x.shape[axis] <= (most or x.shape[axis]):
            takes = f"{least} to {most}" if most else f"{least} or more"
            raise DataError(
                f"{name} has length {x.shape[axis]} along axis {axis}; the network takes {takes}"
            )
    if x.dtype.kind == "f" and not np.isfinite(x).all():
        raise DataError(f"{name} holds values that are not finite")
