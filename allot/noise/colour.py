"""Colour: images through YCbCr and back in 8 bits, as cameras, video and decoders keep them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
Floats = NDArray[np.float64]
# shares of red and blue in luma
BT601, BT709 = (0.299, 0.114), (0.2126, 0.0722)


def to_ycc(images: Images, *, shares: tuple[float, float] = BT601) -> Floats:
    """RGB [..., 3] as full-range YCbCr in 0..255, not rounded."""
    red, green, blue = np.moveaxis(images.astype(np.float64), -1, 0)
    kr, kb = shares
    luma = kr * red + (1 - kr - kb) * green + kb * blue
    chroma = [(blue - luma) / (2 - 2 * kb) + 128, (red - luma) / (2 - 2 * kr) + 128]
    return np.stack([luma, *chroma], axis=-1)


def from_ycc(ycc: Floats, *, shares: tuple[float, float] = BT601) -> Images:
    """YCbCr [..., 3] as RGB, rounded."""
    luma, cb, cr = np.moveaxis(ycc, -1, 0)
    kr, kb = shares
    red, blue = luma + (2 - 2 * kr) * (cr - 128), luma + (2 - 2 * kb) * (cb - 128)
    green = (luma - kr * red - kb * blue) / (1 - kr - kb)
    return np.rint(np.stack([red, green, blue], axis=-1)).clip(0, 255).astype(np.uint8)


def rounded(images: Images) -> Images:
    """Through YCbCr of whole numbers."""
    return from_ycc(np.rint(to_ycc(images)).clip(0, 255))


def halved(images: Images) -> Images:
    """Through YCbCr with one chroma for four pixels (NV12), repeated on the way back."""
    ycc = np.rint(to_ycc(images)).clip(0, 255)
    h, w = images.shape[1:3]
    edges = ((0, 0), (0, h % 2), (0, w % 2), (0, 0))
    chroma = np.pad(ycc[..., 1:], edges, mode="edge")
    n, rows, columns, _ = chroma.shape
    means = np.rint(chroma.reshape(n, rows // 2, 2, columns // 2, 2, 2).mean((2, 4)))
    full = means.repeat(2, axis=1).repeat(2, axis=2)[:, :h, :w]
    return from_ycc(np.concatenate([ycc[..., :1], full], axis=-1))


def narrow(images: Images) -> Images:
    """Through YCbCr of the range of video, 16..235 and 16..240."""
    low, span = np.array([16.0, 16.0, 16.0]), np.array([219.0, 224.0, 224.0])
    kept = np.rint(to_ycc(images) * span / 255 + low)
    return from_ycc((kept - low) * 255 / span)


def mistaken(images: Images) -> Images:
    """Written as BT.601 and read as BT.709: the two are easily confused."""
    return from_ycc(np.rint(to_ycc(images)).clip(0, 255), shares=BT709)
