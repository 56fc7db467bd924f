"""Grids: the values that codes stand for, in units of a scale."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

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
