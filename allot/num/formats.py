"""Number formats: the values that codes stand for, who shares a scale, and what that takes."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from allot.errors import InputError
from allot.num.pack import Bytes
from allot.part import Part


class Grid(Part):
    """The values that the codes lo..hi stand for, in units of a scale, strictly ascending."""

    @property
    @abstractmethod
    def width(self) -> int:
        """Bits that a stored code takes."""

    @property
    def fixed_bits(self) -> int:
        """Bits that the grid itself takes in every tensor that is stored on it: a codebook's."""
        return 0

    @property
    @abstractmethod
    def lo(self) -> int: ...

    @property
    @abstractmethod
    def hi(self) -> int: ...

    @abstractmethod
    def nearest(self, x: Tensor) -> Tensor:
        """Codes of the nearest values: x [...] in units of the scale -> whole numbers like x."""

    @abstractmethod
    def below(self, x: Tensor) -> Tensor:
        """Codes of the largest value that is not above x, within lo .. hi - 1: like x."""

    @abstractmethod
    def values(self, codes: Tensor) -> Tensor:
        """What codes [...] (whole numbers of any dtype) stand for, in units of the scale."""

    def fixed(self) -> Bytes:
        """The bytes that `fixed_bits` counts."""
        return np.zeros(0, dtype=np.uint8)

    def restored(self, fixed: Bytes) -> Grid:
        """The grid that wrote `fixed`, whatever it was fitted to: x.restored(y.fixed()) == y for
        grids that differ in nothing else."""
        return self

    @property
    def reach(self) -> tuple[float, float]:
        """The least and the largest value."""
        ends = self.values(torch.tensor([self.lo, self.hi], dtype=torch.float64))
        return float(ends[0]), float(ends[1])


class _Whole(Grid):
    """A grid whose codes are their own values."""

    def nearest(self, x: Tensor) -> Tensor:
        return x.round().clamp(self.lo, self.hi)

    def below(self, x: Tensor) -> Tensor:
        return x.floor().clamp(self.lo, self.hi - 1)

    def values(self, codes: Tensor) -> Tensor:
        return codes


@dataclass(frozen=True, kw_only=True)
class Int(_Whole):
    """2^bits integer codes around zero, value = scale * code.

    8 bits use -127..127 and positive scales, so that a code may change its sign when a batch norm
    of negative gain is folded; fewer bits use all 2^bits codes, and the sign of the scale says on
    which side the odd one lies.
    """

    bits: int

    @property
    def width(self) -> int:
        return self.bits

    @property
    def lo(self) -> int:
        return -127 if self.bits == 8 else -(2 ** (self.bits - 1))

    @property
    def hi(self) -> int:
        return 2 ** (self.bits - 1) - 1


@dataclass(frozen=True, kw_only=True)
class UInt(_Whole):
    """2^bits codes from 0, value = scale * (code - zero_point): what activations use."""

    bits: int

    @property
    def width(self) -> int:
        return self.bits

    @property
    def lo(self) -> int:
        return 0

    @property
    def hi(self) -> int:
        return 2**self.bits - 1


class Table(Grid):
    """A grid given by the list of its values; codes count them, 0 is the middle one.

    Ties go to the value nearer zero, so that a symmetric grid rounds symmetrically.
    """

    @abstractmethod
    def levels(self) -> Tensor:
        """The values [n], strictly ascending, float64."""

    @cached_property
    def _levels(self) -> Tensor:
        # once per grid: rounding asks for them column by column
        return self.levels()

    @property
    def count(self) -> int:
        """How many values there are."""
        return len(self._levels)

    @property
    def width(self) -> int:
        return max(1, math.ceil(math.log2(self.count)))

    @property
    def lo(self) -> int:
        return -(self.count // 2)

    @property
    def hi(self) -> int:
        return self.lo + self.count - 1

    def nearest(self, x: Tensor) -> Tensor:
        wide = _wide(x)
        levels = self._levels.to(wide)
        middle = (levels[1:] + levels[:-1]) / 2
        # a value on a border belongs to the level below it; a border that is not above zero moves
        # down to the next number there is, so that its value belongs to the level above
        down = torch.nextafter(middle, torch.full_like(middle, -math.inf))
        found = torch.bucketize(wide, torch.where(middle > 0, middle, down))
        return (found + self.lo).to(x.dtype)

    def below(self, x: Tensor) -> Tensor:
        wide = _wide(x)
        found = torch.bucketize(wide, self._levels.to(wide), right=True) - 1
        return (found.clamp(0, self.count - 2) + self.lo).to(x.dtype)

    def values(self, codes: Tensor) -> Tensor:
        levels = self._levels.to(codes.device)
        floats = codes.dtype if codes.is_floating_point() else torch.float32
        return levels[codes.long() - self.lo].to(floats)


def _wide(x: Tensor) -> Tensor:
    """In float32 or wider: neighbouring levels may be the same number in half precision."""
    return x.to(torch.promote_types(x.dtype, torch.float32)).contiguous()


class Scales(Part):
    """How scales are stored."""

    @property
    @abstractmethod
    def bits(self) -> int:
        """Of one scale."""

    @property
    def fixed_bits(self) -> int:
        """Of what all scales of a tensor share."""
        return 0

    @abstractmethod
    def rounded(self, scale: Tensor) -> Tensor:
        """Scales [rows, groups] as they are once stored: the same shape, float32, none of them 0.

        Idempotent.
        """

    @abstractmethod
    def packed(self, scale: Tensor) -> Bytes:
        """Scales [rows, groups] that are as `rounded` left them, as bytes: `bits` of each and then
        `fixed_bits`, each of the two ending on a byte."""

    @abstractmethod
    def unpacked(self, data: Bytes, shape: tuple[int, int]) -> Tensor:
        """The scales of `packed`, bit for bit: float32 of `shape`."""


@dataclass(frozen=True, kw_only=True)
class Float32(Scales):
    """Scales as they are."""

    @property
    def bits(self) -> int:
        return 32

    def rounded(self, scale: Tensor) -> Tensor:
        return scale.float()

    def packed(self, scale: Tensor) -> Bytes:
        return raw(scale, "<f4")

    def unpacked(self, data: Bytes, shape: tuple[int, int]) -> Tensor:
        return torch.from_numpy(data.view("<f4").astype(np.float32)).view(shape)


@dataclass(frozen=True, kw_only=True)
class Float16(Scales):
    """Scales of half precision; what would vanish becomes the least number there is."""

    @property
    def bits(self) -> int:
        return 16

    def rounded(self, scale: Tensor) -> Tensor:
        least, most = 2.0**-24, 65504.0
        sign = torch.where(scale < 0, -1.0, 1.0)
        return (scale.abs().clamp(least, most).half().float()) * sign

    def packed(self, scale: Tensor) -> Bytes:
        return raw(scale, "<f2")

    def unpacked(self, data: Bytes, shape: tuple[int, int]) -> Tensor:
        return torch.from_numpy(data.view("<f2").astype(np.float32)).view(shape)


def raw(x: Tensor, dtype: str) -> Bytes:
    """The bytes of the numbers of x [...], in order, as a numpy dtype that tells the byte order."""
    return x.detach().cpu().numpy().astype(dtype).reshape(-1).view(np.uint8)


@dataclass(frozen=True, kw_only=True)
class Format(Part):
    """How a matrix [rows, k] is stored: codes on a grid, in units of scales that some share.

    group: elements along the reduction axis that share a scale; 0 for a whole row, -1 for the
    whole matrix.  asymmetric: every scale comes with a zero point, value = scale * (code - zero);
    the grid is then one of unsigned integers.
    """

    grid: Grid
    group: int = 0
    scales: Scales = Float32()
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
