"""JPEG: one set of coefficients decoded in the ways in which decoders differ (ITU T.81, JFIF).

Only what is lossy is done: transform, quantization, subsampling of chroma by two; the coding of
bits, which loses nothing, is left out.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from allot.noise.colour import from_ycc, to_ycc

Images = NDArray[np.uint8]
Floats = NDArray[np.float64]
SIDE = 8
# quantization of luma and chroma at quality 50 (T.81, annex K), rows of 8
_LUMA = (
    "16 11 10 16 24 40 51 61 12 12 14 19 26 58 60 55 14 13 16 24 40 57 69 56 14 17 22 29 51 87 80 "
    "62 18 22 37 56 68 109 103 77 24 35 55 64 81 104 113 92 49 64 78 87 103 121 120 101 72 92 95 "
    "98 112 100 103 99"
)
_CHROMA = (
    "17 18 24 47 99 99 99 99 18 21 26 66 99 99 99 99 24 26 56 99 99 99 99 99 47 66 99 99 99 99 99 "
    "99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 99 "
    "99 99"
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Coded:
    """planes: coefficients [n, rows, columns, 8, 8] of luma and, of colour, both chromas (half
    size); size: of the images [h, w]."""

    planes: tuple[Floats, ...]
    size: tuple[int, int]


def coded(images: Images, *, quality: int = 90) -> Coded:
    """Images [n, h, w, c] as dequantized coefficients; c is 1 or 3, chroma at half size."""
    size = images.shape[1], images.shape[2]
    edges = [(0, 0), *((0, -n % (2 * SIDE)) for n in size), (0, 0)]
    padded = np.pad(images, edges, mode="edge")
    if images.shape[3] == 1:
        planes = [padded[..., 0].astype(np.float64)]
    else:
        luma, *chroma = np.moveaxis(to_ycc(padded), -1, 0)
        planes = [luma, *(_halved(p) for p in chroma)]
    kept = []
    for i, plane in enumerate(planes):
        table = _table(_CHROMA if i else _LUMA, quality)
        blocks = _blocks(plane - 128)
        kept.append(np.rint(_cosines() @ blocks @ _cosines().T / table) * table)
    return Coded(planes=tuple(kept), size=size)


def decoded(given: Coded, *, smooth: bool = True, bits: int = 0) -> Images:
    """Images [n, h, w, c] of coefficients.

    smooth: chroma is brought to full size by triangles, as libjpeg does, not by repetition.
    bits: of the fixed-point cosines of the inverse transform, 0 for floats.
    """
    cosines = _cosines()
    if bits:
        cosines = np.rint(cosines * 2**bits) / 2**bits
    planes = []
    for i, coefficients in enumerate(given.planes):
        rows = cosines.T @ coefficients
        # fixed-point code keeps whole quarters between the two passes, as libjpeg does
        plane = _plane((np.rint(4 * rows) / 4 if bits else rows) @ cosines) + 128
        plane = np.rint(plane).clip(0, 255)
        planes.append(_doubled(plane, smooth=smooth) if i else plane)
    whole = np.stack(planes, axis=-1)
    image = whole if len(planes) == 1 else from_ycc(whole)
    return image[:, : given.size[0], : given.size[1]].astype(np.uint8)


def _table(text: str, quality: int) -> Floats:
    scale = 5000 / quality if quality < 50 else 200 - 2 * quality
    base = np.array(text.split(), dtype=np.float64).reshape(SIDE, SIDE)
    return np.floor((base * scale + 50) / 100).clip(1, 255)


def _cosines() -> Floats:
    """The orthonormal cosine transform [8, 8] of a column."""
    k, x = np.arange(SIDE)[:, None], np.arange(SIDE)
    waves = np.cos((2 * x + 1) * k * np.pi / (2 * SIDE)) * np.sqrt(2 / SIDE)
    waves[0] /= np.sqrt(2)
    return waves


def _blocks(plane: Floats) -> Floats:
    n, h, w = plane.shape
    return plane.reshape(n, h // SIDE, SIDE, w // SIDE, SIDE).swapaxes(2, 3)


def _plane(blocks: Floats) -> Floats:
    n, rows, columns = blocks.shape[:3]
    return blocks.swapaxes(2, 3).reshape(n, rows * SIDE, columns * SIDE)


def _halved(plane: Floats) -> Floats:
    n, h, w = plane.shape
    return plane.reshape(n, h // 2, 2, w // 2, 2).mean((2, 4))


def _doubled(plane: Floats, *, smooth: bool) -> Floats:
    if not smooth:
        return plane.repeat(2, axis=1).repeat(2, axis=2)
    for axis in (1, 2):
        edges = [(0, 0)] * 3
        edges[axis] = (1, 1)
        wide = np.pad(plane, edges, mode="edge")
        middle, n = plane, plane.shape[axis]
        before, after = (np.take(wide, np.arange(n) + d, axis=axis) for d in (0, 2))
        parts = [(3 * middle + before) / 4, (3 * middle + after) / 4]
        shape = list(plane.shape)
        shape[axis] *= 2
        plane = np.stack(parts, axis=axis + 1).reshape(shape)
    return np.rint(plane)
