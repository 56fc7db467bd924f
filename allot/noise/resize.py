"""Resize: how images look that were brought to size by another kernel than the training's."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

Images = NDArray[np.uint8]
# mode of torch's interpolate, and whether the kernel is widened where an image gets smaller
Kernel = tuple[str, bool]
NEAREST, BOX = ("nearest", False), ("area", False)
BILINEAR, BICUBIC = ("bilinear", False), ("bicubic", False)
SMOOTH, SHARP = ("bilinear", True), ("bicubic", True)
FACTOR = 1.5


def otherwise(images: Images, kernel: Kernel, *, usual: Kernel = SMOOTH) -> Images:
    """Images [n, h, w, c] as if a kernel had brought them to size in the place of the usual one.

    What they were before is not known: an image half as large again (bicubic) stands for it. Both
    kernels bring that back, and what lies between the two results is added to the image.
    """
    if kernel == usual:
        return images
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float()
    size = x.shape[2], x.shape[3]
    large = _whole(_sized(x, (round(FACTOR * size[0]), round(FACTOR * size[1])), BICUBIC))
    moved = x + _whole(_sized(large, size, kernel)) - _whole(_sized(large, size, usual))
    found: Images = _whole(moved).permute(0, 2, 3, 1).to(torch.uint8).contiguous().numpy()
    return found


def _sized(x: Tensor, size: tuple[int, int], kernel: Kernel) -> Tensor:
    mode, antialias = kernel
    if mode in ("nearest", "area"):
        return interpolate(x, size=size, mode=mode)
    return interpolate(x, size=size, mode=mode, align_corners=False, antialias=antialias)


def _whole(x: Tensor) -> Tensor:
    """8 bits, as libraries give images back."""
    return x.round().clamp(0, 255)
