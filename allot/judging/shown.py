"""Shown: pictures of samples beside the original's, as the report draws them."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from allot.errors import DataError
from allot.judging.noises import NOISE
from allot.judging.png import encode
from allot.judging.resampled import Estimate
from allot.ledger import sample_digests

VERSION = 1
COLUMNS, GAIN = 8, 4.0
# as pictures have: grey, red-green-blue
CHANNELS = (1, 3)


def is_picture(samples: Tensor) -> bool:
    """Whether samples can be drawn: [n, 1 or 3, h, w]; latents of an autoencoder cannot."""
    return samples.dim() == 4 and samples.shape[1] in CHANNELS and len(samples) > 0


def shown(
    original: Tensor,
    samples: Tensor,
    conditions: Sequence[str],
    *,
    figures: Mapping[str, Estimate] | None = None,
    limits: tuple[float, float] = (-1.0, 1.0),
) -> dict[str, Any]:
    """The contents of samples.json: images [n, 1 or 3, h, w] of the same noises, twice.

    conditions: name of each sample's condition, "" without one; a row per condition, of at most 8
    samples.  limits: values drawn black and white.  Samples that are no pictures leave the rows
    empty.  Raises DataError for sets of different shapes.
    """
    _check(original, samples, conditions)
    rows = []
    for name in dict.fromkeys(conditions) if is_picture(original) else ():
        mine = [i for i, c in enumerate(conditions) if c == name][:COLUMNS]
        a, b = _scaled(original[mine], limits), _scaled(samples[mine], limits)
        pictures = {"original": a, "compressed": b, "difference": 0.5 + GAIN / 2 * (b - a)}
        rows.append({
            "condition": name, "width": len(mine) * original.shape[3], "height": original.shape[2],
            **{k: _strip(v) for k, v in pictures.items()},
        })  # fmt: skip
    told = [{"name": k, **_plain(v)} for k, v in (figures or {}).items()]
    return {"version": VERSION, "gain": GAIN, "rows": rows, "figures": told}


def names_of(inputs: Mapping[str, Tensor]) -> list[str]:
    """A name for the condition of each sample of {"noise": ..., ...}, n in all.

    A single whole number (a class) is its own name, other conditions are numbered as they come
    first, and without any all are "".
    """
    told = {k: v for k, v in inputs.items() if k != NOISE}
    if not told:
        return [""] * len(inputs[NOISE])
    first = next(iter(told.values()))
    if len(told) == 1 and first.dim() == 1 and not first.is_floating_point():
        return [str(v) for v in first.tolist()]
    numbers: dict[str, int] = {}
    return [str(numbers.setdefault(d, len(numbers) + 1)) for d in sample_digests(told)]


def _scaled(x: Tensor, limits: tuple[float, float]) -> Tensor:
    low, high = limits
    return (x.double() - low) / (high - low)


def _strip(x: Tensor) -> str:
    """Images [k, c, h, w] with values 0 .. 1 side by side, as a PNG in base 64."""
    k, c, h, w = x.shape
    wide = x.clamp(0, 1).permute(2, 0, 3, 1).reshape(h, k * w, c)
    pixels = torch.round(255 * wide).to(torch.uint8).cpu().numpy()
    return base64.b64encode(encode(pixels)).decode("ascii")


def _plain(x: Estimate) -> dict[str, Any]:
    return {"value": _finite(x.value), "low": _finite(x.low), "high": _finite(x.high), "n": x.n}


def _finite(x: float) -> float | None:
    return x if math.isfinite(x) else None


def _check(original: Tensor, samples: Tensor, conditions: Sequence[str]) -> None:
    if original.shape != samples.shape or len(conditions) != len(original):
        raise DataError(
            "samples are shown beside the original's of the same noises, with one condition each; "
            f"{list(original.shape)}, {list(samples.shape)} and {len(conditions)} conditions were "
            "given"
        )
