"""PNG: pictures as files of a few lines, so that a report needs no library."""

from __future__ import annotations

import struct
import zlib

import numpy as np
from numpy.typing import NDArray

from allot.errors import DataError

_START = b"\x89PNG\r\n\x1a\n"
# colour types of the format: grey, red-green-blue
_KINDS = {1: 0, 3: 2}


def encode(pixels: NDArray[np.uint8]) -> bytes:
    """uint8 [h, w] or [h, w, 1 or 3] -> a PNG file, lossless (RFC 2083; every row unfiltered).

    Raises DataError for anything else.
    """
    x = pixels[:, :, None] if pixels.ndim == 2 else pixels
    if x.dtype != np.uint8 or x.ndim != 3 or x.shape[2] not in _KINDS or 0 in x.shape:
        raise DataError(f"a picture is uint8 [h, w] or [h, w, 3], not {x.dtype} {list(x.shape)}")
    h, w, channels = x.shape
    rows = np.concatenate([np.zeros((h, 1), np.uint8), x.reshape(h, w * channels)], axis=1)
    head = struct.pack(">IIBBBBB", w, h, 8, _KINDS[channels], 0, 0, 0)
    body = zlib.compress(rows.tobytes(), 9)
    return _START + _chunk(b"IHDR", head) + _chunk(b"IDAT", body) + _chunk(b"IEND", b"")


def _chunk(kind: bytes, data: bytes) -> bytes:
    check = zlib.crc32(kind + data)
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", check)
