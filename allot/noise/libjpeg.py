"""libjpeg: images through the decoder of Pillow, where that is installed."""

from __future__ import annotations

import io
from importlib.util import find_spec

import numpy as np
from numpy.typing import NDArray

Images = NDArray[np.uint8]
MISSING = "Pillow is not installed: pip install pillow"


def missing() -> str:
    """ "" where Pillow can be imported, else how to get it."""
    return "" if find_spec("PIL") else MISSING


def through(images: Images, *, quality: int = 90) -> Images:
    """Images [n, h, w, c] written as JPEG, chroma at half size, and read again."""
    return np.stack([_one(x, quality) for x in images])


def _one(image: Images, quality: int) -> Images:
    from PIL import Image

    gray = image.shape[2] == 1
    file = io.BytesIO()
    made = Image.fromarray(image[..., 0] if gray else image)
    made.save(file, format="JPEG", quality=quality, subsampling=2)
    with Image.open(file) as read:
        found = np.asarray(read, dtype=np.uint8)
    return found[..., None] if gray else found
