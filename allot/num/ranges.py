"""Ranges: the scales, zero points and grid with which a matrix is best put on a format."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

from torch import Tensor

from allot.num.formats import Format
from allot.part import Part


@dataclass(frozen=True, kw_only=True, eq=False)
class Fit:
    """format: as asked for, or with the grid that was fitted.  scale: [rows or 1, groups], as
    stored.  zero: like scale, whole numbers of the grid, or None without zero points."""

    format: Format
    scale: Tensor
    zero: Tensor | None = None


class Ranges(Part):
    """A rule that fits a format to a matrix."""

    @abstractmethod
    def fit(self, w: Tensor, fmt: Format, *, curvature: Tensor | None = None) -> Fit:
        """w [rows, k]; curvature [rows, k] or [1, k]: how much an error of each element counts,
        all alike without it.  Raises InputError where the format does not fit the shape."""
