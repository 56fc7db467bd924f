"""Codebooks: grids whose values are fitted to a matrix by weighted k-means in one dimension."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from allot.errors import InputError
from allot.num.formats import Format, Grid, Table
from allot.num.kmeans import fitted
from allot.num.pack import Bytes
from allot.num.ranges import Fit, Ranges

# below every scale that any format stores but never zero: what a group of zeros asks for
_VANISHING = 2.0**-126


@dataclass(frozen=True, kw_only=True)
class Codebook(Table):
    """2^bits values of any size (Han et al. 2016), stored as float16 with the matrix.

    book: strictly ascending float16 numbers, 2 to 2^bits of them; without it the grid only says
    what it takes to store, and `CodebookRanges` fits one.  A book of fewer values takes as much.
    """

    bits: int
    book: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 8:
            raise InputError(f"a codebook has 1 to 8 bits, not {self.bits}")
        book = np.array(self.book, dtype=np.float64)
        with np.errstate(over="ignore"):
            stored = book.astype(np.float16)
        fits = not len(book) or 2 <= len(book) <= 2**self.bits
        if not (fits and np.isfinite(book).all() and (np.diff(book) > 0).all()):
            raise InputError(
                f"a codebook of {self.bits} bits has 2 to {2**self.bits} finite values, strictly "
                f"ascending, not {list(self.book)}"
            )
        if not np.array_equal(stored, book):
            raise InputError("the values of a codebook are float16 numbers; halved() makes them so")

    @property
    def width(self) -> int:
        return self.bits

    @property
    def count(self) -> int:
        return len(self.book) or 2**self.bits

    @property
    def fixed_bits(self) -> int:
        return 16 * 2**self.bits

    def levels(self) -> Tensor:
        if not self.book:
            raise InputError(
                "this codebook has no values yet; CodebookRanges fits them to a matrix"
            )
        return torch.tensor(self.book, dtype=torch.float64)

    def fixed(self) -> Bytes:
        # the last value again and again, where there are fewer than codes
        book = self.levels().numpy()[np.minimum(np.arange(2**self.bits), self.count - 1)]
        return book.astype("<f2").view(np.uint8)

    def restored(self, fixed: Bytes) -> Grid:
        book = np.unique(fixed.copy().view("<f2").astype(np.float64))
        return Codebook(bits=self.bits, book=tuple(book.tolist()))


def halved(values: Tensor, bits: int) -> Codebook:
    """The codebook of values [n] as float16; where they are one value, with 0 (or 1) besides."""
    book = {float(v) + 0.0 for v in values.half()}  # -0 and 0 are one value
    book |= {0.0} if len(book) == 1 else set()
    book |= {1.0} if len(book) == 1 else set()
    return Codebook(bits=bits, book=tuple(sorted(book)))


@dataclass(frozen=True, kw_only=True)
class CodebookRanges(Ranges):
    """Fits a format's codebook to a matrix; the error of each element counts by its curvature.

    Groups are divided by their largest magnitude; k-means gives the book, least squares the
    scales, and so on for `rounds` more times (alternating minimisation); the best of all is kept.
    A group of zeros gets the least scale that can be stored, for a book need not hold zero.
    """

    rounds: int = 3

    def fit(self, w: Tensor, fmt: Format, *, curvature: Tensor | None = None) -> Fit:
        """As `Ranges.fit`; raises InputError for a grid that is no codebook."""
        if not isinstance(fmt.grid, Codebook):
            raise InputError(
                f"codebooks are fitted to formats on a Codebook, not on {type(fmt.grid).__name__}"
            )
        importance = torch.ones_like(w) if curvature is None else curvature.to(w).expand_as(w)
        rows, groups = fmt.shape(*w.shape)
        x, counts = (v.double().reshape(rows, groups, -1) for v in (w, importance))
        scale = fmt.scales.rounded(x.abs().amax(2).clamp(min=_VANISHING))
        best = _tried(x, counts, scale, fmt.grid.bits)
        last = best
        for _ in range(self.rounds):
            scale = fmt.scales.rounded(_least_squares(x, counts, last))
            last = _tried(x, counts, scale, fmt.grid.bits)
            best = last if last.error < best.error else best
        return Fit(format=replace(fmt, grid=best.book), scale=best.scale)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Tried:
    """A book for stored scales [rows, groups], the nearest values [rows, groups, n] in units of
    them, and the squared error by curvature."""

    book: Codebook
    scale: Tensor
    values: Tensor
    error: float


def _tried(x: Tensor, counts: Tensor, scale: Tensor, bits: int) -> _Tried:
    """The best book for scales [rows, groups]: x, counts [rows, groups, n]."""
    unit = scale.double()[..., None]
    ratio = x / unit
    book = halved(fitted(ratio, counts * unit.square(), bits), bits)
    values = book.values(book.nearest(ratio))
    error = float((counts * (x - values * unit).square()).sum())
    return _Tried(book=book, scale=scale, values=values, error=error)


def _least_squares(x: Tensor, counts: Tensor, tried: _Tried) -> Tensor:
    """Scales [rows, groups] of least error with the values as they are; the old one where it would
    not be above zero."""
    along = (counts * x * tried.values).sum(2)
    length = (counts * tried.values.square()).sum(2)
    found = along / torch.where(length > 0, length, 1.0)
    return torch.where(found > 0, found, tried.scale.double())
