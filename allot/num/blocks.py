"""Blocks: codes packed as runtimes read them, in blocks along the reduction axis.

The layout is that of ONNX Runtime's MatMulNBits: unsigned codes of 2, 4 or 8 bits, each block of a
row on whole bytes, the first code in the lowest bits; value = scale * (code - zero).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from allot.num.formats import Encoded, Format, Int, UInt
from allot.num.pack import Bytes
from allot.num.scale_storage import Float16, Float32

# weights of a block, and bits of a code, that there are kernels for
SIZES = (16, 32, 64, 128, 256)
WIDTHS = (2, 4, 8)


def fits(format: Format) -> bool:
    """Whether blocks hold every matrix on a format: integers in groups of such a size, with scales
    that are free."""
    integers = isinstance(format.grid, Int | UInt) and isinstance(format.scales, Float32 | Float16)
    return integers and format.group in SIZES and format.grid.width <= WIDTHS[-1]


def width(format: Format) -> int:
    """Bits that a code of the format takes in a block: the next there is a kernel for."""
    return min(b for b in WIDTHS if b >= format.grid.width)


def dims(format: Format, rows: int, k: int) -> dict[str, list[int]]:
    """Shapes of what `blocks` makes of a matrix [rows, k]."""
    bits, groups = width(format), k // format.group
    found = {"blocks": [rows, groups, format.group * bits // 8], "scales": [rows, groups]}
    return {**found, **({"zeros": [rows, -(-groups * bits // 8)]} if format.asymmetric else {})}


def blocks(encoded: Encoded, *, gain: Tensor | None = None) -> dict[str, NDArray[np.generic]]:
    """blocks uint8 [rows, k / group, group * bits / 8], scales float32 [rows, k / group] and, with
    zero points, zeros uint8 [rows, bytes of a row].

    gain: [rows], what scales are multiplied by.  Without zero points codes are shifted by half
    their range, which is what kernels then take off.
    """
    fmt, (rows, _) = encoded.format, encoded.codes.shape
    bits = width(fmt)
    shift = 0 if fmt.asymmetric else 2 ** (bits - 1)
    codes = (encoded.codes + shift).to(torch.uint8).numpy()
    scale = encoded.scale.float() if gain is None else encoded.scale.float() * gain[:, None]
    found: dict[str, NDArray[np.generic]] = {
        "blocks": together(codes.reshape(rows, -1, fmt.group), bits),
        "scales": scale.numpy(),
    }
    if encoded.zero is not None:
        found["zeros"] = together(encoded.zero.to(torch.uint8).numpy(), bits)
    return found


def values(
    data: Bytes, scales: NDArray[np.float32], zeros: Bytes | None, *, bits: int
) -> NDArray[np.float32]:
    """The matrix [rows, k] of what `blocks` made: float32."""
    codes = apart(data, bits).astype(np.float32)
    rows, groups = scales.shape
    if zeros is None:
        shift = np.full((rows, groups), 2 ** (bits - 1), dtype=np.float32)
    else:
        shift = apart(zeros, bits)[:, :groups].astype(np.float32)
    return ((codes - shift[..., None]) * scales[..., None]).reshape(rows, -1)


def together(codes: Bytes, bits: int) -> Bytes:
    """codes [..., n] below 2^bits -> [..., bytes], the first in the lowest bits, the last byte
    filled up with 0."""
    per = 8 // bits
    short = -codes.shape[-1] % per
    if short:
        codes = np.concatenate(
            [codes, np.zeros((*codes.shape[:-1], short), dtype=np.uint8)], axis=-1
        )
    parts = codes.reshape(*codes.shape[:-1], -1, per) << (np.arange(per, dtype=np.uint8) * bits)
    found: Bytes = np.bitwise_or.reduce(parts.astype(np.uint8), axis=-1)
    return found


def apart(data: Bytes, bits: int) -> Bytes:
    """What `together` put together: [..., bytes] -> codes [..., bytes * 8 / bits]."""
    places = np.arange(8 // bits, dtype=np.uint8) * bits
    codes: Bytes = (data[..., None] >> places).astype(np.uint8) & np.uint8(2**bits - 1)
    return codes.reshape(*data.shape[:-1], -1)
