"""Dyadic: real factors as b / 2^c with whole b and c, so that a rescale is a product and a shift.

(Yao et al. 2021, HAWQ-V3, section 3.)  Products and sums fit signed 64 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from allot.errors import InputError

Integers = NDArray[np.int64]
# b lies below 2^31 and c is at most 60; a sum of products lies below 2^61
FACTOR_BITS, MOST_SHIFT, SUM_BITS = 31, 60, 61


@dataclass(frozen=True, kw_only=True, eq=False)
class Dyadic:
    """Real factors [k, n] as factors / 2^shift and a real offset [n] as offset / 2^shift.

    factors: int64 [k, n].  offset, shift: int64 [n].  |factors / 2^shift - real| is at most
    2^-(shift + 1): relative to a factor that stands alone at most 2^-31, unless it is below 2^-30,
    where the shift is as large as it may be and the absolute error at most 2^-61.
    """

    factors: Integers
    offset: Integers
    shift: Integers


def dyadic(
    ratios: ArrayLike,
    *,
    reach: Sequence[int] = (),
    offset: ArrayLike = 0.0,
    bits: int = FACTOR_BITS,
) -> Dyadic:
    """The best b / 2^c of real factors [k, n], the k of a column with one c: sum_k b_k x_k + o.

    reach: largest |x_k| of each of the k integers that are multiplied (0 where not given).
    offset: real [n], added to the products.  |b| < 2^bits; every larger c is at least as good, so
    c is the largest that fits.  Raises InputError for factors that are not finite or too large.
    """
    real = np.atleast_2d(np.asarray(ratios, dtype=np.float64))
    extra = np.broadcast_to(np.asarray(offset, dtype=np.float64), real.shape[1:])
    if not (np.isfinite(real).all() and np.isfinite(extra).all()):
        raise InputError("a factor of a rescale is not finite")
    most = np.array(reach or (0,) * len(real), dtype=np.float64)
    whole = np.abs(real).T @ most + np.abs(extra)
    shift = np.minimum(_room(np.abs(real).max(axis=0), bits), _room(whole, SUM_BITS))
    if (shift < 0).any():
        raise InputError(
            f"a factor of {np.abs(real).max():.3g} is no rescale: b / 2^c lies below 2^{bits}"
        )
    return Dyadic(
        factors=np.rint(np.ldexp(real, shift)).astype(np.int64),
        offset=np.rint(np.ldexp(extra, shift)).astype(np.int64),
        shift=shift.astype(np.int64),
    )


def _room(size: NDArray[np.float64], bits: int) -> NDArray[np.int32]:
    """The largest c <= 60 with round(size 2^c) < 2^bits, for sizes [n] of at least 0."""
    mantissa, exponent = np.frexp(size)
    # a mantissa just below 1 is rounded up to a power of two
    up = np.rint(np.ldexp(mantissa, bits)) >= 2.0**bits
    room = np.where(size > 0, bits - exponent - up, MOST_SHIFT)
    return np.minimum(room, MOST_SHIFT).astype(np.int32)


def shifted(sums: Integers, shift: Integers) -> Integers:
    """sums / 2^shift rounded to the nearest whole number, halves up; any shapes that broadcast."""
    half = np.where(shift > 0, np.left_shift(np.int64(1), np.maximum(shift - 1, 0)), 0)
    return np.right_shift(sums + half, shift)
