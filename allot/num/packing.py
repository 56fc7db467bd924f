"""Packing: a matrix on a format as the bytes that the format's account promises, and back."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from allot.errors import ArtefactError, InputError
from allot.num import pack
from allot.num.formats import Encoded, Format, Grid
from allot.num.pack import Bytes


def packed(encoded: Encoded) -> Bytes:
    """Codes, then what the grid was fitted to, scales and zero points; each ends on a byte.

    len(packed(x)) == x.format.stored_bytes(*x.codes.shape), and unpacked(...) == x bit for bit.
    Raises InputError for codes that the grid does not have and scales that are not as stored.
    """
    fmt, (rows, k), scales = encoded.format, encoded.codes.shape, encoded.scale
    shape = fmt.shape(rows, k)
    if tuple(scales.shape) != shape or not torch.equal(
        fmt.scales.rounded(scales).to(scales), scales
    ):
        raise InputError(
            f"scales of a matrix {[rows, k]} in groups of {fmt.group} are {list(shape)} numbers as "
            f"{type(fmt.scales).__name__}.rounded gives them; others, {list(scales.shape)}, came"
        )
    if fmt.asymmetric != (encoded.zero is not None):
        raise InputError("there are zero points where the format is asymmetric, and only there")
    parts = [_codes(encoded.codes, fmt.grid), fmt.grid.fixed(), fmt.scales.packed(scales)]
    parts += [] if encoded.zero is None else [_codes(encoded.zero.expand(shape), fmt.grid)]
    return np.concatenate(parts)


def unpacked(data: Bytes, format: Format, rows: int, k: int) -> Encoded:
    """The matrix [rows, k] that `packed` wrote: codes, scale and zero in float32.

    format: the one it is on, or that without what its grid was fitted to; the bytes tell it.
    Raises ArtefactError for a wrong length and for codes that the grid does not have.
    """
    expected = format.stored_bytes(rows, k)
    if len(data) != expected:
        raise ArtefactError(
            f"a matrix {[rows, k]} on {type(format.grid).__name__} of {format.grid.width} bits in "
            f"groups of {format.group} takes {expected} bytes, got {len(data)}"
        )
    shape, grid = format.shape(rows, k), format.grid
    count = math.prod(shape)
    sizes = [pack.packed_size(rows * k, grid.width), math.ceil(grid.fixed_bits / 8)]
    sizes += [math.ceil(count * format.scales.bits / 8) + math.ceil(format.scales.fixed_bits / 8)]
    codes, fixed, scales, zeros = np.split(data, np.cumsum(sizes))
    grid = grid.restored(fixed)
    return Encoded(
        format=replace(format, grid=grid),
        codes=_decoded(codes, (rows, k), grid),
        scale=format.scales.unpacked(scales, shape),
        zero=_decoded(zeros, shape, grid) if format.asymmetric else None,
    )


def _shift(grid: Grid) -> int:
    """What is taken from codes so that they are signed: unsigned ones lose half their range."""
    return 2 ** (grid.width - 1) if grid.lo >= 0 else 0


def _codes(codes: Tensor, grid: Grid) -> Bytes:
    """codes [...] of a grid as bits."""
    whole = codes.detach().round()
    if not (
        torch.equal(whole, codes.detach()) and grid.lo <= whole.min() <= whole.max() <= grid.hi
    ):
        raise InputError(
            f"{type(grid).__name__} has the codes {grid.lo} to {grid.hi}; others were given, from "
            f"{float(codes.min())} to {float(codes.max())}"
        )
    signed = (whole.reshape(-1) - _shift(grid)).to(torch.int8)
    return pack.pack(signed.cpu().numpy(), grid.width)


def _decoded(data: Bytes, shape: tuple[int, int], grid: Grid) -> Tensor:
    """Bits -> codes of `shape`, float32."""
    signed = pack.unpack(data, math.prod(shape), grid.width)
    codes = torch.from_numpy(signed.astype(np.float32)) + _shift(grid)
    if not (grid.lo <= codes.min() and codes.max() <= grid.hi):
        raise ArtefactError(
            f"{type(grid).__name__} has the codes {grid.lo} to {grid.hi}; the bytes hold others"
        )
    return codes.view(shape)
