"""Images: random ones that are smooth as photographs are, and the schedule that adds noise."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional


def smooth(n: int, channels: int, size: int, *, generator: torch.Generator) -> Tensor:
    """Random images [n, channels, size, size] of mean 0 and deviation 1 each.

    Noise on grids of 2, 4, 8 ... places, every finer one half as strong: energy falls with the
    square of frequency as in photographs (Field 1987).
    """
    found = torch.zeros(n, channels, size, size)
    for level in range(1, 1 + int(math.log2(size))):
        grid = torch.randn(n, channels, 2**level, 2**level, generator=generator)
        found += 0.5**level * functional.interpolate(grid, size=(size, size), mode="bilinear")
    dims = (1, 2, 3)
    return (found - found.mean(dims, keepdim=True)) / found.std(dims, keepdim=True)


def kept(step: Tensor, steps: int) -> Tensor:
    """Share of an image's variance that is left at a step of `steps`: [n] -> [n].

    The linear schedule of Ho et al. (2020): noise of variance 1e-4 to 0.02 a step.
    """
    added = torch.linspace(1e-4, 0.02, steps)
    return torch.cumprod(1 - added, 0)[step]
