"""Minifloats: floating-point numbers of 4, 6 or 8 bits, every split of exponent and mantissa."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from allot.errors import InputError
from allot.num.formats import Table


@dataclass(frozen=True, kw_only=True)
class Minifloat(Table):
    """A sign, `exponent` bits and `mantissa` bits, with subnormals, bias 2^(exponent - 1) - 1.

    Every pattern is a finite number, as in E2M1, E2M3 and E3M2 of the OCP microscaling formats
    (v1.0, 2023), but for the two splits of the OCP 8-bit specification (2023): E4M3 gives one
    pattern of either sign away for NaN (largest 448), E5M2 a whole exponent for infinities and
    NaN (largest 57344); what lies outside is rounded to the largest.  +0 and -0 are one level, so
    2^bits - 1 levels at most.  A real-valued exponent bias b (Liu et al. 2023, LLM-FP4) is the
    scale 2^-b; a bias of the format, whatever its size, is too.  Without an exponent bit it would
    be the grid of one exponent bit and one mantissa bit less, so there is at least one.

    Codes count the levels and are no bit patterns.  Ties go to the value nearer zero, where the
    hardware takes the even pattern.
    """

    exponent: int
    mantissa: int

    def __post_init__(self) -> None:
        bits = 1 + self.exponent + self.mantissa
        if bits not in (4, 6, 8) or self.exponent < 1 or self.mantissa < 0:
            raise InputError(
                "a minifloat has 4, 6 or 8 bits, one of them the sign and at least one of the "
                f"exponent; exponent={self.exponent} and mantissa={self.mantissa} were given"
            )

    def levels(self) -> Tensor:
        steps = 2**self.mantissa
        pattern = torch.arange(2 ** (self.exponent + self.mantissa), dtype=torch.float64)
        field, rest = pattern // steps, pattern % steps
        bias = 2 ** (self.exponent - 1) - 1
        fraction = torch.where(field == 0, rest, steps + rest) / steps
        magnitude = fraction * torch.exp2(field.clamp(min=1) - bias)
        magnitude = magnitude[: len(magnitude) - self._kept_back]
        return torch.cat((-magnitude[1:].flip(0), magnitude))

    @property
    def _kept_back(self) -> int:
        """The largest magnitudes that stand for no number."""
        return {(4, 3): 1, (5, 2): 4}.get((self.exponent, self.mantissa), 0)
