"""A sampler of a few hundred weights, with blocks to leave out, for tests."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from allot.bank import Bank
from allot.calibrate import calibrate, needed
from allot.sampling.grid import Grid
from allot.sampling.sampler import Sampler
from allot.sampling.spans import RESIDUAL, Span
from allot.space import Space
from allot.task import Task

CLASSES = 3
SHAPE = (2, 6, 6)


class Block(nn.Module):
    """Adds to what enters, told of the time."""

    def __init__(self, channels: int) -> None:
        nn.Module.__init__(self)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.project = nn.Linear(8, channels)

    def forward(self, x: Tensor, told: Tensor) -> Tensor:
        return x + 0.3 * torch.tanh(self.conv(x) + self.project(told)[:, :, None, None])


class Denoiser(nn.Module):
    """x [n, 2, 6, 6], time [n], label [n] -> [n, 2, 6, 6]."""

    def __init__(self, channels: int = 8) -> None:
        nn.Module.__init__(self)
        self.label = nn.Embedding(CLASSES, 8)
        self.embed = nn.Linear(8, 8)
        self.enter = nn.Conv2d(2, channels, 3, padding=1)
        self.blocks = nn.ModuleList(Block(channels) for _ in range(3))
        self.leave = nn.Conv2d(channels, 2, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        waves = torch.cos(time[:, None] * torch.logspace(-2, 0, 8))
        told = torch.tanh(self.embed(waves) + self.label(label))
        x = self.enter(x)
        for block in self.blocks:
            x = block(x, told)
        return self.leave(x)


DEEP = Span(name="deep", modules=("blocks.1", "blocks.2"), keeps=RESIDUAL)


def grid(steps: int = 5) -> Grid:
    """Cosine levels."""
    angles = [1.5 - 1.4 * i / steps for i in range(steps)]
    t = torch.tensor(angles, dtype=torch.float64)
    return Grid(
        times=tuple(100 * a for a in angles),
        signals=tuple(t.cos().tolist()),
        noises=tuple(t.sin().tolist()),
    )


def sampler(steps: int = 5, *, seed: int = 0) -> Sampler:
    """The tiny sampler with random weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        denoiser = Denoiser().eval().requires_grad_(False)
    return Sampler(denoiser=denoiser, grid=grid(steps), spans=(DEEP,))


def bank_of(task: Task, space: Space) -> Bank:
    """The bank of a space, its statistics from the task's calibration noises."""
    stats = calibrate(task, task.model, needed(space), batch=16)
    return Bank(task.model, graph=space.graph, stats=stats)
