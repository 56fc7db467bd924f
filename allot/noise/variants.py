"""Variants: every mismatch between training and deployment that a task can meet, and which not."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from allot.noise import colour as colours
from allot.noise import files, jpeg, libjpeg, resize
from allot.noise.pictures import Images, Pictures
from allot.target import Target, Workload

# in the order in which they happen to a sample
KINDS = (
    "decoder", "resize", "colour", "normalization", "ceil mode", "precision", "batch", "threads",
    "runtime",
)  # fmt: skip
OF_IMAGES = KINDS[:4]
COLOURS: dict[str, Callable[[Images], Images]] = {
    "YCbCr in 8 bits": colours.rounded,
    "chroma at half size": colours.halved,
    "range of video": colours.narrow,
    "BT.601 read as BT.709": colours.mistaken,
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Variant:
    """One thing done otherwise than in training; what is None stays as it is.

    images: uint8 [n, h, w, c] -> the same.  inputs: how images become inputs.  file: ONNX bytes ->
    ONNX bytes.  workload, target: what it runs with and in.
    """

    kind: str
    name: str
    images: Callable[[Images], Images] | None = None
    inputs: Callable[[Pictures, Images], NDArray[np.float32]] | None = None
    file: Callable[[bytes], bytes] | None = None
    workload: Callable[[Workload], Workload] | None = None
    target: Target | None = None

    @property
    def label(self) -> str:
        return f"{self.kind}: {self.name}"


@dataclass(frozen=True, kw_only=True)
class Skipped:
    """A variant, or all of a kind, that the task cannot meet here, and why."""

    label: str
    why: str


def of_images(why_not: str, *, colour: bool) -> tuple[list[Variant], list[Skipped]]:
    """What may happen to an image before it enters the network; why_not: where there are none.

    colour: whether they have three channels.
    """
    if why_not:
        return [], [Skipped(label=k, why=why_not) for k in OF_IMAGES]
    found, lacking = _decoders(colour=colour)
    kernels = {
        "nearest": resize.NEAREST, "box": resize.BOX, "bilinear": resize.BILINEAR,
        "bicubic": resize.BICUBIC, "bicubic, antialiased": resize.SHARP,
    }  # fmt: skip
    found += [
        Variant(kind="resize", name=n, images=partial(resize.otherwise, kernel=k))
        for n, k in kernels.items()
    ]
    if colour:
        found += [Variant(kind="colour", name=n, images=f) for n, f in COLOURS.items()]
    else:
        lacking.append(Skipped(label="colour", why="the images are gray"))
    found.append(
        Variant(
            kind="normalization",
            name="mean and deviation of whole levels",
            inputs=Pictures.in_whole_levels,
        )
    )
    return found, lacking


def _decoders(*, colour: bool) -> tuple[list[Variant], list[Skipped]]:
    found = [Variant(kind="decoder", name="cosines of 8 bits", images=partial(_decoded, bits=8))]
    if colour:
        change = partial(_decoded, smooth=False)
        found.append(Variant(kind="decoder", name="chroma repeated, not smoothed", images=change))
    if libjpeg.missing():
        return found, [Skipped(label="decoder: libjpeg", why=libjpeg.missing())]
    return [*found, Variant(kind="decoder", name="libjpeg", images=_libjpeg)], []


def _decoded(images: Images, *, smooth: bool = True, bits: int = 0) -> Images:
    """Images as another decoder would have given them, from one and the same file."""
    given = jpeg.coded(images)
    return _moved(images, jpeg.decoded(given, smooth=smooth, bits=bits), jpeg.decoded(given))


def _libjpeg(images: Images) -> Images:
    return _moved(images, libjpeg.through(images), jpeg.decoded(jpeg.coded(images)))


def _moved(images: Images, other: Images, usual: Images) -> Images:
    """The images with what lies between two decoders added."""
    moved = images.astype(np.int16) + other - usual
    return moved.clip(0, 255).astype(np.uint8)


def of_inference(
    onnx: bytes, *, target: Target, workload: Workload, others: Sequence[Target]
) -> tuple[list[Variant], list[Skipped]]:
    """What may differ where the network runs."""
    found: list[Variant] = []
    lacking: list[Skipped] = []
    why = files.no_ceil(onnx)
    if why:
        lacking.append(Skipped(label="ceil mode", why=why))
    else:
        found.append(Variant(kind="ceil mode", name="turned", file=files.other_ceil))
    rounding = next((t for t in (target, *others) if files.keeps_casts(t)), None)
    if rounding is None:
        why = "no runtime here rounds where a file asks for shorter floats"
        lacking.append(Skipped(label="precision", why=why))
    else:
        given = None if rounding == target else rounding
        where = "" if given is None else f", in {rounding.name}"
        for name, edit in (("float16", files.float16), ("bfloat16", files.bfloat16)):
            found.append(Variant(kind="precision", name=name + where, file=edit, target=given))
    found += [
        Variant(kind="batch", name=str(n), workload=partial(_batch, batch=n))
        for n in (1, 64)
        if n != workload.batch
    ]
    threads = 2 if workload.threads == 1 else 1
    found.append(
        Variant(kind="threads", name=str(threads), workload=partial(_threads, threads=threads))
    )
    found += [Variant(kind="runtime", name=t.name, target=t) for t in others]
    if not others:
        lacking.append(Skipped(label="runtime", why="no other runtime is installed"))
    return found, lacking


def _batch(workload: Workload, *, batch: int) -> Workload:
    return replace(workload, batch=batch)


def _threads(workload: Workload, *, threads: int) -> Workload:
    return replace(workload, threads=threads)
