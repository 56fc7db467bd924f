"""Number formats: the values that codes stand for, who shares a scale, and what that takes."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import Tensor

from allot.errors import InputError
from allot.num.grids import Grid as Grid
from allot.num.grids import Int as Int
from allot.num.grids import Table as Table
from allot.num.grids import UInt as UInt
from allot.num.scale_storage import Float16 as Float16
from allot.num.scale_storage import Float32 as Float32
from allot.num.scale_storage import Scales as Scales
from allot.num.scale_storage import raw as raw
from allot.part import Part


@dataclass(frozen=True, kw_only=True)
class Format(Part):
    """How a matrix [rows, k] is stored: codes on a grid, in units of scales that some share.

    group: elements along the reduction axis that share a scale; 0 for a whole row, -1 for the
    whole matrix.  asymmetric: every scale comes with a zero point, value = scale * (code - zero);
    the grid is then one of unsigned integers.
    """

    grid: Grid
    group: int = 0
    scales: Scales = Float32()  # noqa: RUF009 - frozen, shared by intent
    asymmetric: bool = False

    def __post_init__(self) -> None:
        if self.asymmetric != isinstance(self.grid, UInt):
            raise InputError(
                "a format with zero points has an unsigned integer grid, and only such a format; "
                f"{type(self.grid).__name__} was given with asymmetric={self.asymmetric}"
            )

    @property
    def takes_gain(self) -> bool:
        """Whether a factor per row can go into the scales: they are free, and every row has its
        own."""
        return isinstance(self.scales, Float32) and self.group >= 0

    def shape(self, rows: int, k: int) -> tuple[int, int]:
        """Of the scales of a matrix [rows, k].

        Raises InputError where the groups do not divide k, with the nearest sizes that do.
        """
        if self.group <= 0:
            return (1 if self.group < 0 else rows), 1
        if k % self.group:
            raise InputError(
                f"groups of {self.group} do not divide a reduction axis of {k}; "
                f"{' or '.join(map(str, dividing(k, self.group)))} would"
            )
        return rows, k // self.group

    def spread(self, shared: Tensor, k: int) -> Tensor:
        """What groups share, [rows or 1, groups], for every column: [rows or 1, k]."""
        return shared.repeat_interleave(k // shared.shape[1], dim=1)

    def stored_bytes(self, rows: int, k: int) -> int:
        """Bytes of codes, scales, zero points and what they share; each part ends on a byte."""
        shared = math.prod(self.shape(rows, k))
        parts = [rows * k * self.grid.width, self.grid.fixed_bits]
        parts += [shared * self.scales.bits, self.scales.fixed_bits]
        parts += [shared * self.grid.width] if self.asymmetric else []
        return sum(math.ceil(p / 8) for p in parts)


def dividing(k: int, group: int) -> list[int]:
    """The sizes nearest to `group`, below and above, that divide k."""
    sizes = [d for d in range(1, k + 1) if k % d == 0]
    below, above = [d for d in sizes if d <= group], [d for d in sizes if d >= group]
    return sorted({*below[-1:], *above[:1]})


@dataclass(frozen=True, kw_only=True, eq=False)
class Encoded:
    """A matrix [rows, k] on a format.

    format: its grid may be one that was fitted to the matrix.  codes [rows, k], whole numbers of
    the grid, as float.  scale, zero: [rows or 1, groups]; zero is None without zero points.
    """

    format: Format
    codes: Tensor
    scale: Tensor
    zero: Tensor | None = None

    def values(self) -> Tensor:
        """The matrix that the codes stand for, float32 [rows, k]."""
        k = self.codes.shape[1]
        codes = self.codes.float()
        if self.zero is not None:
            codes = codes - self.format.spread(self.zero, k)
        else:
            codes = self.format.grid.values(codes)
        return codes * self.format.spread(self.scale, k)


def encode(w: Tensor, scale: Tensor, fmt: Grid) -> Tensor:
    """Nearest codes: w [out, ...], scale [out] -> codes like w (float, ties to even)."""
    return fmt.nearest(w / rowwise(scale, w))


def decode(codes: Tensor, scale: Tensor) -> Tensor:
    """Values of integer codes: codes [out, ...], scale [out] -> like codes."""
    return codes * rowwise(scale, codes)


def rowwise(scale: Tensor, like: Tensor) -> Tensor:
    """scale [out] -> [out, 1, ...] with as many dims as `like`."""
    return scale.view(-1, *([1] * (like.dim() - 1)))
