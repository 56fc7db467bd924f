"""Pictures: the 8-bit images that normalized inputs were made of, where they can be told."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from allot.task import Inputs

Images = NDArray[np.uint8]
Floats = NDArray[np.float32]
LEVELS = 256
# of a level: float32 normalization is this exact, and more
_EXACT = 0.01


@dataclass(frozen=True, kw_only=True, eq=False)
class Pictures:
    """images: uint8 [n, h, w, c].  inputs [n, c, h, w] = step * images + offset, both [c]."""

    images: Images
    inputs: Floats
    step: NDArray[np.float64]
    offset: NDArray[np.float64]

    def of(self, images: Images) -> Floats:
        """Inputs of other images; of the same ones exactly those that were given."""
        moved = images.astype(np.float64) - self.images
        return (self.inputs + (moved * self.step).transpose(0, 3, 1, 2)).astype(np.float32)

    def in_whole_levels(self, images: Images) -> Floats:
        """Inputs where mean and deviation are rounded to whole levels, as integer code does."""
        mean, deviation = np.rint(-self.offset / self.step), np.rint(1 / self.step)
        whole = (images - mean) / np.where(deviation == 0, 1, deviation)
        return whole.transpose(0, 3, 1, 2).astype(np.float32)


def pictures(inputs: Inputs) -> tuple[Pictures | None, str]:
    """The images behind float inputs [n, c, h, w], or None and why there are none.

    They are told from the values: those of every channel lie on one grid of 256 levels of which
    the first and the last occur, so nothing needs to be known of how images were normalized.
    """
    if not isinstance(inputs, Tensor) or inputs.dim() != 4 or inputs.shape[1] not in (1, 3):
        return None, "the inputs are no images of one or three channels, [n, c, h, w]"
    if not inputs.is_floating_point():
        return None, "the inputs are no normalized images"
    x = inputs.numpy().astype(np.float64)
    grids = [_grid(x[:, c]) for c in range(x.shape[1])]
    if not all(grids):
        return None, "the inputs do not lie on 256 levels: no 8-bit images are to be had"
    steps, offsets = (np.array(v) for v in zip(*(g for g in grids if g), strict=True))
    levels = (x.transpose(0, 2, 3, 1) - offsets) / steps
    return (
        Pictures(
            images=np.rint(levels).astype(np.uint8),
            inputs=inputs.numpy().astype(np.float32),
            step=steps,
            offset=offsets,
        ),
        "",
    )


def _grid(x: NDArray[np.float64]) -> tuple[float, float] | None:
    """step and offset of values that lie on 256 levels, both ends among them."""
    values = np.unique(x)
    if not 2 <= len(values) <= LEVELS:
        return None
    step = float(values[-1] - values[0]) / (LEVELS - 1)
    places = (values - values[0]) / step
    if np.abs(places - np.rint(places)).max() > _EXACT:
        return None
    return step, float(values[0])
