"""Scale formats: scales as powers of two or 8-bit floats, and the block formats built on them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from allot.errors import InputError
from allot.num.formats import Format, Grid, Scales, raw
from allot.num.minifloat import Minifloat
from allot.num.pack import Bytes

# exponents of E8M0; pattern 255 is no number
_LOWEST, _HIGHEST = -127, 127
# of E4M3: the least and the largest number above 0
_LEAST, _MOST = 2.0**-9, 448.0
# of the shared float, so that no product with an E4M3 number vanishes or overflows
_T_LEAST, _T_MOST = 2.0**-120, 2.0**118


@dataclass(frozen=True, kw_only=True)
class PowerOfTwo(Scales):
    """Powers of two, 2^-127 .. 2^127, as an exponent byte (E8M0, OCP microscaling formats 2023).

    A scale s becomes 2^floor(log2(lift * s)), 1 <= lift < 2.  The default rounds up (to within
    2^-20, which is rounding noise), so that a scale that covers its group still does: of the rules
    for scales largest weight / largest value it has the least error on normal weights and 6 or 8
    bits.  `specified` gives the lift of the OCP rule, which clips; the square root of 2 is the
    nearest exponent; 1 rounds down.  There is no sign: a negative scale becomes positive, so codes
    are to be taken after this rounding.
    """

    lift: float = 2 - 2.0**-19

    def __post_init__(self) -> None:
        if not 1 <= self.lift < 2:
            raise InputError(f"lift lies in 1 <= lift < 2, not at {self.lift}")

    @property
    def bits(self) -> int:
        return 8

    def rounded(self, scale: Tensor) -> Tensor:
        return torch.exp2(self._exponents(scale).double()).float()

    def packed(self, scale: Tensor) -> Bytes:
        return raw(self._exponents(scale) - _LOWEST, "u1")

    def unpacked(self, data: Bytes, shape: tuple[int, int]) -> Tensor:
        exponents = torch.from_numpy(data.astype(np.float64)) + _LOWEST
        return torch.exp2(exponents).float().view(shape)

    def _exponents(self, scale: Tensor) -> Tensor:
        # frexp has fractions from 1/2, so its exponent is one above the floor of the logarithm
        lifted = (scale.double().abs() * self.lift).clamp(min=2.0**_LOWEST)
        return (torch.frexp(lifted).exponent - 1).clamp(_LOWEST, _HIGHEST)


@dataclass(frozen=True, kw_only=True)
class Fp8Scales(Scales):
    """E4M3 numbers times one float32 t for the whole matrix, t * 448 the largest (NVFP4, 2025).

    With scales of amax / 6 on E2M1 this is NVFP4's t = amax / (448 * 6).  Scales below t * 2^-9
    become that; the sign is kept.  448 t, rounded, gives t back (so it does for the quotient t of
    any float32), hence rounding twice is rounding once.
    """

    @property
    def bits(self) -> int:
        return 8

    @property
    def fixed_bits(self) -> int:
        return 32

    def rounded(self, scale: Tensor) -> Tensor:
        unit = self._unit(scale)
        return self._patterns(scale, unit).float() * unit

    def packed(self, scale: Tensor) -> Bytes:
        unit = self._unit(scale)
        patterns = self._patterns(scale, unit).view(torch.uint8)
        return np.concatenate((raw(patterns, "u1"), raw(unit, "<f4")))

    def unpacked(self, data: Bytes, shape: tuple[int, int]) -> Tensor:
        unit = torch.from_numpy(data[-4:].copy().view("<f4").astype(np.float32))
        patterns = torch.from_numpy(data[:-4].copy()).view(torch.float8_e4m3fn)
        return (patterns.float() * unit).view(shape)

    def _unit(self, scale: Tensor) -> Tensor:
        """t, float32 []."""
        t = scale.double().abs().max() / _MOST
        return t.clamp(_T_LEAST, _T_MOST).float()

    def _patterns(self, scale: Tensor, unit: Tensor) -> Tensor:
        times = (scale.double() / unit.double()).abs().clamp(_LEAST, _MOST)
        return torch.copysign(times, scale.double()).float().to(torch.float8_e4m3fn)


def specified(grid: Grid) -> PowerOfTwo:
    """The OCP rule for scales amax / largest value of `grid`: 2^(floor log2 amax - floor log2 of
    the largest value).  It clips what is above the largest value times that."""
    fraction, _ = math.frexp(grid.reach[1])
    # amax may be a power of two, and amax / largest value then be rounded to just below
    return PowerOfTwo(lift=2 * fraction * (1 + 2.0**-20))


def mx(grid: Grid) -> Format:
    """A microscaling format (OCP 2023): 32 elements share a power of two.

    The rule by which a scale becomes one is left to implementations; the one that the
    specification gives is `scales=specified(grid)`.
    """
    return Format(grid=grid, group=32, scales=PowerOfTwo())


def nvfp4() -> Format:
    """NVFP4: 16 elements of E2M1 share an E4M3 scale, and the matrix a float32."""
    return Format(grid=Minifloat(exponent=2, mantissa=1), group=16, scales=Fp8Scales())
