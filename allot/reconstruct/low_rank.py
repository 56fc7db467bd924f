"""Low rank: codes moved by a product of two thin matrices, which is fused into them at the end."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from allot.errors import InputError
from allot.options.standins import OnGrid
from allot.reconstruct.soft import Free, LearnedRounding, Soft


@dataclass(frozen=True, kw_only=True)
class LowRankRounding(LearnedRounding):
    """A product up [out, rank] @ down [rank, k] is learned and added to each frozen weight; what is
    rounded to the frozen grid is the sum, so that nothing of the product is left to store or to
    compute (QLLM, Liu et al. 2024).

    Of a weight [out, k], rank * (out + k) numbers are learned instead of out * k.  rate: of Adam,
    in steps of the row's grid.  seed: of `down`, which starts as noise; `up` starts at 0, so that
    the codes are those of before.  rank 0 moves nothing; one above the matrix's is the matrix's,
    which already reaches every change.

    Deviation: the authors learn with the product beside the quantized weight, unrounded, and round
    the sum once it is learned; here it is rounded at every step, with the gradient passed straight
    through, so that what is learned is what will be computed.  The sum starts at the unrounded
    weight, moved into the cell of the code it has, and the grid stays as it was fitted.
    """

    rank: int = 4
    rate: float = 0.03
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise InputError(f"the rank of what is learned is not below 0; {self.rank} was given")
        if not self.rate > 0:
            raise InputError(f"a learning rate is above 0; {self.rate} was given")

    def soft(self, layer: OnGrid, w: Tensor) -> Soft:
        return _Moved(layer, w, self)


class _Moved(Free):
    """Values that start as `Free` ones, frozen, and are moved by a product alone.

    variable: [out + k, rank], up and the transpose of down in one.
    """

    def __init__(self, layer: OnGrid, w: Tensor, rounding: LowRankRounding) -> None:
        Free.__init__(self, layer, w)
        self.start = self.variable.detach()
        out, k = self.start.shape
        rank = min(rounding.rank, out, k)
        generator = torch.Generator().manual_seed(rounding.seed)
        down = torch.randn((k, rank), generator=generator) / max(1, rank) ** 0.5
        up = torch.zeros((out, rank))
        self.variable = nn.Parameter(torch.cat([up, down]).to(self.start))
        # a row of the product is in steps of that row, so that the weight moves by this rank also
        # where a row has several steps
        steps = self.frame.scale.expand(out, k)
        self.share = steps.mean(1, keepdim=True) / steps

    def place(self) -> Tensor:
        out = len(self.start)
        return self.start + self.share * (self.variable[:out] @ self.variable[out:].T)
