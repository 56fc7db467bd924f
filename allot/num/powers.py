"""Power grids: values that are powers of a code, powers of 2 and of its root, or a sign alone."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from allot.errors import InputError
from allot.num.formats import Grid, Table
from allot.num.pack import Bytes


@dataclass(frozen=True, kw_only=True)
class Power(Table):
    """sign(c) |c|^(1/exponent) for c = -n .. n, n = 2^(bits-1) - 1 (Yvinec et al. 2023, NUPES).

    Stretched so that the largest is n: exponent 1 are the symmetric integers, an exponent below 1
    has more values near zero.  NUPES rounds |w|^exponent; here a weight goes to the value that is
    nearest to itself, which is never farther.  The exponent is chosen for each matrix, so it is
    stored with it, as a float64.
    """

    bits: int
    exponent: float

    def __post_init__(self) -> None:
        _within(self, self.bits, 2, 8)
        if not (math.isfinite(self.exponent) and self.exponent > 0):
            raise InputError(f"the exponent of a power grid is above 0, not {self.exponent}")

    @property
    def fixed_bits(self) -> int:
        return 64

    def fixed(self) -> Bytes:
        return np.array([self.exponent], dtype="<f8").view(np.uint8)

    def restored(self, fixed: Bytes) -> Grid:
        return Power(bits=self.bits, exponent=float(fixed.copy().view("<f8")[0]))

    def levels(self) -> Tensor:
        top = 2 ** (self.bits - 1) - 1
        code = torch.arange(top + 1, dtype=torch.float64)
        return _mirrored(top * (code / top) ** (1 / self.exponent))


class _Geometric(Table):
    """Zero and the powers 1, r, r^2 ... of a ratio below 1, as many as codes, with signs or not."""

    bits: int
    signed: bool

    @property
    @abstractmethod
    def ratio(self) -> float: ...

    def levels(self) -> Tensor:
        count = 2 ** (self.bits - 1) if self.signed else 2**self.bits
        exponents = torch.arange(count - 2, -1, -1, dtype=torch.float64)
        magnitude = torch.cat((torch.zeros(1, dtype=torch.float64), self.ratio**exponents))
        return _mirrored(magnitude) if self.signed else magnitude


@dataclass(frozen=True, kw_only=True)
class Log2(_Geometric):
    """Zero and 2^0, 2^-1, ...: products are shifts (Miyashita et al. 2016).

    signed: 2^bits - 1 values within -1..1, for weights; otherwise 2^bits values within 0..1, for
    what a softmax gives (Lin et al. 2022, FQ-ViT).  Values go to the nearest level; the papers
    round the logarithm, which moves the border between two levels from 1.5 to 1.41 times the lower
    one and is never nearer.
    """

    bits: int
    signed: bool = True

    def __post_init__(self) -> None:
        # 2^-254 is no float32
        _within(self, self.bits, 2, 8 if self.signed else 7)

    @property
    def ratio(self) -> float:
        return 0.5


@dataclass(frozen=True, kw_only=True)
class LogSqrt2(_Geometric):
    """Zero and 2^0, 2^-1/2, 2^-1, ...: twice as fine as Log2 at half the reach (Li et al. 2023,
    RepQ-ViT, for what a softmax gives).  signed, rounding: as of Log2."""

    bits: int
    signed: bool = True

    def __post_init__(self) -> None:
        _within(self, self.bits, 2, 8)

    @property
    def ratio(self) -> float:
        return math.sqrt(0.5)


@dataclass(frozen=True, kw_only=True)
class Ternary(Table):
    """-1, 0 and 1 (Li et al. 2016), stored in 2 bits."""

    def levels(self) -> Tensor:
        return torch.tensor([-1.0, 0.0, 1.0], dtype=torch.float64)


@dataclass(frozen=True, kw_only=True)
class Binary(Table):
    """-1 and 1 (Rastegari et al. 2016), stored in 1 bit; 0 goes to 1."""

    def levels(self) -> Tensor:
        return torch.tensor([-1.0, 1.0], dtype=torch.float64)


def _mirrored(magnitude: Tensor) -> Tensor:
    """magnitude [n] from 0 upwards -> with the negative ones below it [2n - 1]."""
    return torch.cat((-magnitude[1:].flip(0), magnitude))


def _within(grid: Table, bits: int, least: int, most: int) -> None:
    if not least <= bits <= most:
        raise InputError(f"{type(grid).__name__} has {least} to {most} bits, not {bits}")
