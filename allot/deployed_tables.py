"""Deployed tables: embeddings that hold codes, of which rows are looked up and put into float."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allot.num.formats import Encoded


class CodedEmbedding(nn.Module):
    """An embedding stored as codes int8 [rows, width] and a scale per row, f32 [rows, 1].

    In the exported graph codes and scales are gathered by standard operators and multiplied, which
    every runtime has: DequantizeLinear takes no scale per gathered row.
    """

    roles: ClassVar[tuple[str, ...]] = ("codes", "scale")
    factors: ClassVar[tuple[Tensor, ...]] = ()
    gain: ClassVar[None] = None
    bias: ClassVar[None] = None
    codes: Tensor
    scale: Tensor

    def __init__(self, encoded: Encoded) -> None:
        nn.Module.__init__(self)
        self.encoded = encoded
        self.register_buffer("codes", encoded.codes.to(torch.int8).contiguous())
        self.register_buffer("scale", encoded.scale.float().contiguous())

    @property
    def shape(self) -> tuple[int, ...]:
        """[rows, width]."""
        return tuple(self.codes.shape)

    @property
    def weight(self) -> Tensor:
        """The table in float; a network's own forward may look at it too."""
        return self.codes.float() * self.scale

    def forward(self, index: Tensor) -> Tensor:
        return F.embedding(index, self.codes).float() * F.embedding(index, self.scale)
