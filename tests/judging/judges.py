"""Judges and samples for the tests, fresh on each call."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from allot.judging.judge import Judge, judge
from tests import toys


class Eye(nn.Module):
    """conv-relu-pool-linear-relu-linear, its activation functions in place: [n, 1, h, w]."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.conv = nn.Conv2d(1, 6, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.pool = nn.AdaptiveAvgPool2d(3)
        self.features = nn.Linear(54, 8)
        self.relu2 = nn.ReLU(inplace=True)
        self.classes = nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.relu(self.conv(x)))
        return self.classes(self.relu2(self.features(x.flatten(1))))


def eye(seed: int = 0) -> Judge:
    network = toys.seeded(Eye(), seed)
    return judge(network, features="features", layers=("conv", "features"))


def images(n: int, seed: int = 0, *, size: int = 12) -> Tensor:
    return toys.images(n, channels=1, size=size, seed=seed).clamp(-1, 1)


def cloud(n: int, d: int, seed: int = 0, *, scale: float = 1.0, shift: float = 0.0) -> Tensor:
    """Correlated features [n, d] in float64."""
    g = torch.Generator().manual_seed(seed)
    mixed = torch.randn(d, d, generator=g, dtype=torch.float64) / d**0.5 + torch.eye(d).double()
    return scale * torch.randn(n, d, generator=g, dtype=torch.float64) @ mixed + shift


def turned(d: int, seed: int = 0) -> Tensor:
    """A random orthogonal map [d, d]."""
    g = torch.Generator().manual_seed(seed)
    return torch.linalg.qr(torch.randn(d, d, generator=g, dtype=torch.float64))[0]
