"""Number formats: which values b bits can stand for."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from allot.part import Part


@dataclass(frozen=True, kw_only=True)
class Int(Part):
    """2^bits integer codes around zero, value = scale * code.

    8 bits use -127..127 and positive scales, so that a code may change its sign when a batch norm
    of negative gain is folded; fewer bits use all 2^bits codes, and the sign of the scale says on
    which side the odd one lies.
    """

    bits: int

    @property
    def lo(self) -> int:
        return -127 if self.bits == 8 else -(2 ** (self.bits - 1))

    @property
    def hi(self) -> int:
        return 2 ** (self.bits - 1) - 1


@dataclass(frozen=True, kw_only=True)
class UInt(Part):
    """2^bits codes from 0, value = scale * (code - zero_point): what activations use."""

    bits: int

    @property
    def hi(self) -> int:
        return 2**self.bits - 1


def encode(w: Tensor, scale: Tensor, fmt: Int) -> Tensor:
    """Nearest codes: w [out, ...], scale [out] -> codes like w (float, ties to even)."""
    return (w / rowwise(scale, w)).round().clamp(fmt.lo, fmt.hi)


def decode(codes: Tensor, scale: Tensor) -> Tensor:
    """Values of codes: codes [out, ...], scale [out] -> like codes."""
    return codes * rowwise(scale, codes)


def rowwise(scale: Tensor, like: Tensor) -> Tensor:
    """scale [out] -> [out, 1, ...] with as many dims as `like`."""
    return scale.view(-1, *([1] * (like.dim() - 1)))
