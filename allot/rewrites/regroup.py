"""Regroup: input channels repeated, divided or averaged in front of a layer that reads them."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn


class Regroup(nn.Module):
    """y[k] = gain[k] x[first[k]] + shift[k], plus other_gain[k] x[other[k]] of merged channels.

    Channels lie at `dim` (-3 or -1).  first, other [new], of the channels before; shift is None
    for zeros, other where nothing is merged.
    """

    def __init__(
        self,
        first: Tensor,
        gain: Tensor,
        *,
        dim: int,
        shift: Tensor | None = None,
        other: Tensor | None = None,
        other_gain: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("first", first)
        self.register_buffer("gain", gain)
        self.register_buffer("shift", shift)
        self.register_buffer("other", other)
        self.register_buffer("other_gain", other_gain)

    def forward(self, x: Tensor) -> Tensor:
        y = self._picked(x, "first", "gain")
        if self.shift is not None:
            y = y + self._tall(self.get_buffer("shift").to(x))
        return y if self.other is None else y + self._picked(x, "other", "other_gain")

    def _picked(self, x: Tensor, index: str, gain: str) -> Tensor:
        values = self._tall(self.get_buffer(gain).to(x))
        return x.index_select(self.dim, self.get_buffer(index)) * values

    def _tall(self, values: Tensor) -> Tensor:
        return values if self.dim == -1 else values[:, None, None]


class Regrouped(nn.Sequential):
    """A layer behind a Regroup: `regroup`, then `layer`, which has as many inputs as that gives."""

    def __init__(self, regroup: Regroup, layer: nn.Conv2d | nn.Linear) -> None:
        super().__init__()
        self.regroup = regroup
        self.layer = layer


def channels_dim(module: nn.Module) -> int:
    """Where the input channels of a layer lie: -3 of a convolution, else -1."""
    return -3 if isinstance(module, nn.Conv2d) else -1


def resized(module: nn.Conv2d | nn.Linear, weight: Tensor) -> nn.Conv2d | nn.Linear:
    """A copy of a layer (a convolution in one group) with another weight, of any input width."""
    new = copy.copy(module)
    new._parameters = dict(module._parameters)
    new.weight = nn.Parameter(weight.to(module.weight), requires_grad=False)
    if isinstance(new, nn.Conv2d):
        new.in_channels = weight.shape[1]
    else:
        new.in_features = weight.shape[1]
    return copy.deepcopy(new)


def columns(weight: Tensor) -> Tensor:
    """A weight by input channel: [out, in, ...] -> [in, out * ...]."""
    return weight.detach().transpose(0, 1).flatten(1)


def repeats(counts: Tensor) -> Tensor:
    """Positions 0..n-1 and then each again counts - 1 times: counts [n] >= 1 -> [sum(counts)]."""
    n = torch.arange(len(counts), device=counts.device)
    return torch.cat([n, n.repeat_interleave(counts - 1)])


def offsets(index: Tensor, counts: Tensor) -> Tensor:
    """By how many steps each of T equal parts is shifted: index, of `repeats` [new] -> [new].

    (2 k - (T - 1)) / (2 T) for k = 0..T-1: they add up to zero, and the nearest whole numbers of
    u / T plus each of them add up to the nearest whole number of u (Hermite's identity).
    """
    seen: dict[int, int] = {}
    found = []
    for i in index.tolist():
        k, t = seen.setdefault(i, 0), int(counts[i])
        seen[i] += 1
        found.append((2 * k - (t - 1)) / (2 * t))
    return torch.tensor(found, dtype=torch.float64, device=index.device)
