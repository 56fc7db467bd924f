"""Packed format: the bytes of a layer whose weight is on a format, and the weight of such bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from allot import part
from allot.deployed import FormattedLayer, expanded
from allot.deployed_blocks import BlockLayer
from allot.deployed_tables import CodedEmbedding
from allot.errors import JobError
from allot.num import blocks, packing
from allot.option import count

Bytes = NDArray[np.uint8]
OnFormat = FormattedLayer | BlockLayer | CodedEmbedding


def entry(layer: OnFormat) -> dict[str, Any]:
    """What is to be known of a layer to read its bytes, as JSON data."""
    return {
        "kind": "format",
        "format": layer.encoded.format.dump(),
        "rank": layer.factors[0].shape[1] if layer.factors else 0,
        "gain": layer.gain is not None,
        "shape": list(layer.shape),
    }


def payload(layer: OnFormat) -> list[NDArray[Any]]:
    """Codes and scales, factors in half precision, gain: in the order in which they are stored."""
    gain = [] if layer.gain is None else [layer.gain.numpy()]
    factors = [f.numpy().astype(np.float16) for f in layer.factors]
    return [packing.packed(layer.encoded), *factors, *gain]


def values(entry: Mapping[str, Any], data: Bytes) -> dict[str, NDArray[Any]]:
    """What the file holds of a layer: its weight, or blocks, scales and zeros; and its bias.  Of a
    table in codes: these and its scales.

    Raises ValueError for bytes of another length, PlanError for a format that allot does not have.
    """
    shape, rank, fmt = tuple(entry["shape"]), entry["rank"], part.load(entry["format"])
    rows, k = shape[0], count(shape[1:])
    whole = fmt.stored_bytes(rows, k)
    halves = 2 * rank * (rows + k)
    floats = np.frombuffer(data[whole + halves :].tobytes(), dtype=np.float32)
    named = [n for n in ("gain", "bias") if (entry["gain"] if n == "gain" else n in entry["into"])]
    if data.size != whole + halves + 4 * rows * len(named):
        raise ValueError(f"{entry['name']} has {data.size} bytes, not what its format takes")
    found = dict(zip(named, floats.reshape(len(named), rows), strict=True))
    factors = _factors(data[whole : whole + halves], rows, k, rank)
    gain = torch.from_numpy(found["gain"].copy()) if "gain" in found else None
    encoded = packing.unpacked(data[:whole], fmt, rows, k)
    bias = {"bias": found["bias"]} if "bias" in found else {}
    if "blocks" in entry["into"]:
        return {**blocks.blocks(encoded, gain=gain), **bias}
    if "codes" in entry["into"]:
        return {"codes": encoded.codes.to(torch.int8).numpy(), "scale": encoded.scale.numpy()}
    return {"weight": expanded(encoded, gain, factors).numpy().reshape(shape), **bias}


def expect(entry: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
    """Raises JobError where a graph lacks a tensor of a layer, or has it in another shape."""
    shapes = dims(entry)
    for role, name in entry["into"].items():
        if name not in tensors or list(tensors[name].dims) != shapes[role]:
            raise JobError(f"the exported graph has no tensor {name} of shape {shapes[role]}")


def dims(entry: Mapping[str, Any]) -> dict[str, list[int]]:
    """Role -> shape of every tensor of the graph that a layer's bytes go into."""
    shape = entry["shape"]
    found = {"weight": shape, "codes": shape, "scale": shape[:1], "bias": shape[:1]}
    if entry["kind"] == "format" and "codes" in entry["into"]:
        found["scale"] = [shape[0], 1]
    if "blocks" in entry["into"]:
        found |= blocks.dims(part.load(entry["format"]), *shape)
    return found


def _factors(data: Bytes, rows: int, k: int, rank: int) -> tuple[Tensor, ...]:
    """up [rows, rank] and down [rank, k], none for rank 0."""
    if not rank:
        return ()
    both = torch.from_numpy(np.frombuffer(data.tobytes(), dtype=np.float16).astype(np.float32))
    return both[: rows * rank].view(rows, rank), both[rows * rank :].view(rank, k)
