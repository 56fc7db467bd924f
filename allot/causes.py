"""Causes: what a difference between two tensors looks like, told from their values alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
# what a test leaves unexplained of a difference, as a share of its norm, for it to be the cause
_LEFT = 0.05
# differences below this share of the largest value are of another order of additions
_NOISE = 1e-5
# of the norm: below it a difference everywhere is that of fewer mantissa bits (bfloat16 has 8)
_COARSE = 2.0**-6
_SATURATED = 0.99
_STEPS_LEAST = 2


@dataclass(frozen=True, kw_only=True)
class Cause:
    """kind: one word for tables.  text: the end of a sentence that begins with a place."""

    kind: str
    text: str


def cause(expected: ArrayLike, got: ArrayLike) -> Cause:
    """The likely cause of the difference of two tensors [n, c, ...], both of the same shape.

    The first that explains it of: values that are no numbers, one factor (for the tensor, for
    each channel), one constant, ends of a range, one step of a grid, short mantissas; else
    "unknown".  What it says is likely, not proven: a factor that is lost in one value alone can
    look like anything.
    """
    e, g = (np.asarray(x, dtype=np.float64) for x in (expected, got))
    if not np.isfinite(g).all():
        share = 1 - float(np.isfinite(g).mean())
        return Cause(kind="not finite", text=f"{share:.1%} of its values are no numbers")
    off = np.abs(g - e) > _NOISE * max(float(np.abs(e).max()), 1e-30)
    if not off.any():
        return Cause(kind="none", text="nothing differs")
    for test in _TESTS:
        found = test(e, g, off)
        if found is not None:
            return found
    return Cause(
        kind="unknown",
        text=f"{off.mean():.1%} of its values differ, by no factor, constant or step, nor at the "
        "ends of a range",
    )


def _explains(e: Floats, g: Floats, guess: Floats) -> bool:
    return bool(np.linalg.norm(g - guess) <= _LEFT * np.linalg.norm(g - e))


def _scale(e: Floats, g: Floats, off: NDArray[np.bool_]) -> Cause | None:
    ratio = float((e * g).sum() / max((e * e).sum(), 1e-300))
    if _explains(e, g, ratio * e):
        return Cause(
            kind="scale mismatch", text=f"every value is {ratio:.4g} times what it should be"
        )
    dims = tuple(d for d in range(e.ndim) if d != 1)
    if e.ndim < 2 or e.size == e.shape[1]:
        return None
    each = (e * g).sum(dims, keepdims=True) / np.maximum((e * e).sum(dims, keepdims=True), 1e-300)
    if not _explains(e, g, each * e):
        return None
    wrong = np.abs(each.reshape(-1) - 1) > _NOISE
    return Cause(
        kind="scale mismatch",
        text=f"{int(wrong.sum())} of {wrong.size} channels are {each.min():.4g} to "
        f"{each.max():.4g} times what they should be",
    )


def _offset(e: Floats, g: Floats, off: NDArray[np.bool_]) -> Cause | None:
    dims = tuple(d for d in range(e.ndim) if d != 1) if e.ndim > 1 else (0,)
    if e.ndim < 2 or e.size == e.shape[1]:
        return None
    moved = (g - e).mean(dims, keepdims=True)
    if not _explains(e, g, e + moved):
        return None
    return Cause(
        kind="offset",
        text=f"channels lie {moved.min():.4g} to {moved.max():.4g} beside what they should be, as "
        "where a bias or a zero point is another",
    )


def _saturation(e: Floats, g: Floats, off: NDArray[np.bool_]) -> Cause | None:
    low, high = float(g.min()), float(g.max())
    near = _NOISE * max(abs(low), abs(high))
    cut = ((g >= high - near) & (e > g)) | ((g <= low + near) & (e < g))
    if int((cut & off).sum()) < max(_STEPS_LEAST, _SATURATED * int(off.sum())):
        return None
    return Cause(
        kind="saturation",
        text=f"{off.mean():.2%} of its values stop at {low:.4g} or {high:.4g} where they should go "
        "further",
    )


def _rounding(e: Floats, g: Floats, off: NDArray[np.bool_]) -> Cause | None:
    step = _step(e)
    if step is None or not np.allclose(np.abs(g - e)[off], step, rtol=_LEFT, atol=0):
        return None
    up = float((g > e)[off].mean())
    return Cause(
        kind="rounding",
        text=f"{off.mean():.2%} of its values lie one step ({step:.4g}) beside what they should "
        f"be, {up:.0%} of them above, as where halves are rounded otherwise",
    )


def _step(e: Floats) -> float | None:
    """The step of the grid on which all values lie; None where there is none."""
    values = np.unique(e)
    if len(values) < 3 or len(values) > 2**8 + 1:
        return None
    gaps = np.diff(values)
    # float32 values of one level may differ in their last bits
    gaps = gaps[gaps > 1e-5 * gaps.max()]
    step = float(gaps.min())
    places = gaps / step
    return step if np.allclose(places, np.rint(places), atol=0.01) else None


def _precision(e: Floats, g: Floats, off: NDArray[np.bool_]) -> Cause | None:
    relative = float(np.linalg.norm(g - e)) / max(float(np.linalg.norm(e)), 1e-300)
    if relative > _COARSE:
        return None
    return Cause(
        kind="precision",
        text=f"its values are {relative:.2g} off in the norm, as where it is computed with short "
        "mantissas",
    )


_Test = Callable[[Floats, Floats, NDArray[np.bool_]], Cause | None]
_TESTS: tuple[_Test, ...] = (_scale, _offset, _saturation, _rounding, _precision)
