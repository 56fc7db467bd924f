"""Gates: a linear layer per module and step that says whether the module's last result would do."""

from __future__ import annotations

from collections.abc import Hashable

import torch
from torch import Tensor, nn

from allot.sampling.moment import Moment
from allot.sampling.probes import Probe
from allot.sampling.triggers import Notes


class Gate(nn.Module):
    """sigmoid(mean over tokens of weight . x + bias): how well the last result would do.

    weight: [channels] of the span's input, None for a gate that looks at nothing (a router).  A
    sample takes the result again where that exceeds the threshold.
    """

    probe: Probe | None = None
    remembers: Hashable = None

    def __init__(self, *, channels: int | None, threshold: float = 0.5) -> None:
        nn.Module.__init__(self)
        self.threshold = threshold
        self.weight = None if channels is None else nn.Parameter(torch.zeros(channels))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        """[n, ..., channels] or [n, channels, h, w] -> [n] in (0, 1)."""
        if self.weight is None:
            return self.bias.sigmoid().expand(len(x))
        rows = x.movedim(1, -1) if x.dim() == 4 else x
        mean = rows.flatten(1, -2).mean(1) if rows.dim() > 2 else rows
        return (mean @ self.weight.to(mean.dtype) + self.bias).sigmoid()

    def decided(self, seen: Tensor, notes: Notes | None, moment: Moment) -> Tensor:
        with torch.no_grad():
            return self(seen) > self.threshold

    def noted(self, seen: Tensor, notes: Notes | None, again: Tensor | None) -> Notes:
        raise NotImplementedError("a gate takes no notes")
