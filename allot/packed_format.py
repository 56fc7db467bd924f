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
from allot.num import packing
from allot.option import count

Bytes = NDArray[np.uint8]


def entry(layer: FormattedLayer) -> dict[str, Any]:
    """What is to be known of a layer to read its bytes, as JSON data."""
    return {
        "kind": "format",
        "format": layer.encoded.format.dump(),
        "rank": layer.factors[0].shape[1] if layer.factors else 0,
        "gain": layer.gain is not None,
        "shape": list(layer.weight.shape),
    }


def payload(layer: FormattedLayer) -> list[NDArray[Any]]:
    """Codes and scales, factors in half precision, gain: in the order in which they are stored."""
    gain = [] if layer.gain is None else [layer.gain.numpy()]
    factors = [f.numpy().astype(np.float16) for f in layer.factors]
    return [packing.packed(layer.encoded), *factors, *gain]


def values(entry: Mapping[str, Any], data: Bytes) -> dict[str, NDArray[Any]]:
    """weight and, where the layer has one, bias.

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
    weight = expanded(packing.unpacked(data[:whole], fmt, rows, k), gain, factors)
    bias = {"bias": found["bias"]} if "bias" in found else {}
    return {"weight": weight.numpy().reshape(shape), **bias}


def _factors(data: Bytes, rows: int, k: int, rank: int) -> tuple[Tensor, ...]:
    """up [rows, rank] and down [rank, k], none for rank 0."""
    if not rank:
        return ()
    both = torch.from_numpy(np.frombuffer(data.tobytes(), dtype=np.float16).astype(np.float32))
    return both[: rows * rank].view(rows, rank), both[rows * rank :].view(rank, k)
