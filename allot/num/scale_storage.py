"""Scale storage: how the scales of a matrix are stored."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from allot.num.pack import Bytes
from allot.part import Part


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
