"""Pack: signed codes of 1 to 8 bits as a dense stream of bits, and back exactly."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Codes = NDArray[np.int8]
Bytes = NDArray[np.uint8]

# codes handled at a time; a multiple of 8, so that every piece ends on a whole byte
_PIECE = 1 << 18


def packed_size(count: int, bits: int) -> int:
    """Bytes that `count` codes of `bits` take: the last byte may be partly empty."""
    return (count * bits + 7) // 8


def pack(codes: Codes, bits: int) -> Bytes:
    """codes [n] int8 within -2^(bits-1) .. 2^(bits-1)-1 -> bytes [packed_size(n, bits)].

    Code i takes the bits i*bits .. (i+1)*bits-1 of the stream, lowest first, in two's complement;
    unpack(pack(codes, bits), n, bits) == codes.  Raises ValueError for a code that does not fit.
    """
    low, high = _range(bits)
    if codes.size and not (low <= int(codes.min()) and int(codes.max()) <= high):
        raise ValueError(
            f"codes of {bits} bits lie in {low}..{high}, got {codes.min()}..{codes.max()}"
        )
    flat = codes.reshape(-1).view(np.uint8)
    pieces = [_bits(flat[i : i + _PIECE], bits) for i in range(0, flat.size, _PIECE)]
    return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.uint8)


def unpack(data: Bytes, count: int, bits: int) -> Codes:
    """The `count` codes of a packed stream: [count] int8; raises ValueError for a wrong length."""
    _range(bits)
    if data.size != packed_size(count, bits):
        raise ValueError(
            f"{count} codes of {bits} bits take {packed_size(count, bits)} bytes, got {data.size}"
        )
    step = _PIECE * bits // 8
    out = np.empty(count, dtype=np.int8)
    for k, i in enumerate(range(0, data.size, step)):
        n = min(_PIECE, count - k * _PIECE)
        out[k * _PIECE : k * _PIECE + n] = _codes(data[i : i + step], n, bits)
    return out


def _range(bits: int) -> tuple[int, int]:
    if not 1 <= bits <= 8:
        raise ValueError(f"codes of 1 to 8 bits can be packed, not of {bits}")
    return -(2 ** (bits - 1)), 2 ** (bits - 1) - 1


def _bits(codes: Bytes, bits: int) -> Bytes:
    places = np.unpackbits(codes[:, None], axis=1, count=bits, bitorder="little")
    return np.packbits(places.reshape(-1), bitorder="little")


def _codes(data: Bytes, count: int, bits: int) -> Codes:
    places = np.unpackbits(data, count=count * bits, bitorder="little").reshape(count, bits)
    values = np.packbits(places, axis=1, bitorder="little")[:, 0]
    # the shift up and down again spreads the sign bit
    up = 8 - bits
    return (values << up).astype(np.uint8).view(np.int8) >> up
