"""Entropy layers: a layer's packed bytes with its codes and the exponents of its floats coded.

Floats (scales, biases, the weight of a float layer) are cut into their exponent, which a histogram
makes short, and three bytes of sign and mantissa, which nothing does: they stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from allot import part
from allot.entropy_coding import PAYS, Bytes, decoded, encoded
from allot.num import pack
from allot.num.formats import Float32, Format
from allot.option import count

# what layout.json calls it; another coder gets another name
CODER = "range"
_BIAS = 127


def coded(entry: Mapping[str, Any], data: Bytes) -> tuple[dict[str, Any], Bytes]:
    """A layer's packed bytes entropy coded where that pays, and its entry of layout.json for them;
    both as they were where it pays nowhere.

    "stream": bytes of the codes' stream, 0 for codes that stay packed.  "exponents": bytes of the
    stream of every array of floats, 0 for one that stays as it is.  plain(*coded(e, d)) == d.
    Raises MissingError without the library.
    """
    n, bits = _codes(entry)
    size, floats = pack.packed_size(n, bits), _floats(entry)
    first = len(data) - 4 * sum(floats)
    stream = encoded(pack.unpack(data[:size], n, bits), _rows(entry)) if n else data[:0]
    kept = not n or len(stream) > (1 - PAYS) * size
    parts = [data[:size] if kept else stream, data[size:first]]
    lengths = []
    for x in _arrays(data, first, floats):
        found = _exponents_coded(x)
        lengths.append(len(found) - 3 * (len(x) // 4) if len(found) < len(x) else 0)
        parts.append(found if lengths[-1] else x)
    if kept and not any(lengths):
        return dict(entry), data
    more = {"coder": CODER, "stream": 0 if kept else len(stream), "exponents": lengths}
    return {**entry, **more}, np.concatenate(parts)


def plain(entry: Mapping[str, Any], data: Bytes) -> Bytes:
    """A layer's bytes in packed form, whichever way they are stored.

    Raises ValueError for a coder that this version does not have and for damaged bytes.
    """
    if "coder" not in entry:
        return data
    if entry["coder"] != CODER:
        raise ValueError(f"{entry['name']} is coded by {entry['coder']!r}, not by {CODER!r}")
    n, bits = _codes(entry)
    floats, lengths = _floats(entry), [int(x) for x in entry["exponents"]]
    stream = int(entry["stream"])
    size = stream or pack.packed_size(n, bits)
    held = [length + (3 if length else 4) * k for k, length in zip(floats, lengths, strict=True)]
    first = len(data) - sum(held)
    if min([*lengths, stream, first - size]) < 0:
        raise ValueError(f"{entry['name']} is cut off")
    codes = pack.pack(decoded(data[:size], n, _rows(entry)), bits) if stream else data[:size]
    parts = [codes, data[size:first]]
    for k, length, taken in zip(floats, lengths, held, strict=True):
        x = data[first : first + taken]
        parts.append(_exponents_read(x, k, length) if length else x)
        first += taken
    return np.concatenate(parts)


def _arrays(data: Bytes, first: int, floats: tuple[int, ...]) -> Iterator[Bytes]:
    """The bytes of every array of floats."""
    for n in floats:
        yield data[first : first + 4 * n]
        first += 4 * n


def _exponents_coded(x: Bytes) -> Bytes:
    """The stream of the exponents of float32 numbers, then three bytes of each."""
    words = x.copy().view("<u4")
    exponents = (words >> 23 & 0xFF).astype(np.int64) - _BIAS
    if not len(words) or exponents.max() > _BIAS:
        return x  # no number at all, or one that is none
    rest = (words & 0x7FFFFF) | (words >> 31 << 23)
    bytes_of = rest.astype("<u4").view(np.uint8).reshape(-1, 4)[:, :3]
    return np.concatenate([encoded(exponents.astype(np.int8), 1), bytes_of.reshape(-1)])


def _exponents_read(data: Bytes, n: int, length: int) -> Bytes:
    """The n float32 numbers of `_exponents_coded`, whose stream has `length` bytes."""
    exponents = decoded(data[:length], n, 1).astype(np.int64) + _BIAS
    if int(exponents.min()) < 0:
        raise ValueError("an entropy-coded layer holds exponents that no number has")
    rest = np.zeros((n, 4), dtype=np.uint8)
    rest[:, :3] = data[length:].reshape(n, 3)
    low = rest.reshape(-1).view("<u4").astype(np.uint32)
    words = (low & 0x7FFFFF) | (exponents.astype(np.uint32) << 23) | (low >> 23 << 31)
    return words.astype("<u4").view(np.uint8)


def _rows(entry: Mapping[str, Any]) -> int:
    return int(entry["shape"][0])


def _codes(entry: Mapping[str, Any]) -> tuple[int, int]:
    """Number of a layer's codes and bits of each as packed; no codes in a float layer."""
    if entry["kind"] in ("codes", "expanded"):
        return count(tuple(entry["shape"])), int(entry["bits"])
    if entry["kind"] == "format":
        return count(tuple(entry["shape"])), _format(entry).grid.width
    return 0, 8


def _format(entry: Mapping[str, Any]) -> Format:
    found = part.load(entry["format"])
    assert isinstance(found, Format)
    return found


def _floats(entry: Mapping[str, Any]) -> tuple[int, ...]:
    """Numbers of every array of float32 at the end of a layer's bytes."""
    rows, bias = _rows(entry), "bias" in entry["into"]
    if entry["kind"] != "format":
        whole = rows if entry["kind"] in ("codes", "expanded") else count(tuple(entry["shape"]))
        return (whole, *[rows] * bias)
    fmt, last = _format(entry), [rows] * (bool(entry["gain"]) + bias)
    # scales are followed by zero points and factors, where there are any
    if isinstance(fmt.scales, Float32) and not fmt.asymmetric and not entry["rank"]:
        last = [math.prod(fmt.shape(rows, count(tuple(entry["shape"][1:])))), *last]
    return tuple(last)
