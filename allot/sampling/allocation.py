"""Allocation: how many calibration inputs come from which step of a sampler."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from allot.errors import DataError, InputError
from allot.part import Part


class Allocation(Part):
    """How many of the inputs that are taken come from which step.

    reads: module of the denoiser whose output is compared between steps, or None.
    """

    @property
    def reads(self) -> str | None:
        return None

    @abstractmethod
    def shares(self, features: Tensor) -> Tensor:
        """Of each step, summing to 1: [steps], from features [steps, d], or [steps, 0]."""


@dataclass(frozen=True, kw_only=True)
class Strided(Allocation):
    """Every so-manyth step, equally (Q-Diffusion, Li et al. 2023); 1 for all steps."""

    every: int = 1

    def __post_init__(self) -> None:
        if self.every < 1:
            raise InputError(f"every {self.every}th step is none; give 1 or more")

    def shares(self, features: Tensor) -> Tensor:
        taken = (torch.arange(len(features)) % self.every == 0).double()
        return taken / taken.sum()


@dataclass(frozen=True, kw_only=True)
class DenseAndVaried(Allocation):
    """More from steps that many others resemble, and from those unlike the rest (EDA-DM, Liu et
    al. 2024).

    module: of the denoiser, whose output is compared (theirs: the middle block's attention).
    radius: within which a step counts as alike, in squared differences over their median between
    steps; theirs is a number per network.  weight: of variety beside density, each scaled to 0..1.
    """

    module: str
    radius: float = 0.5
    weight: float = 1.2

    @property
    def reads(self) -> str | None:
        return self.module

    def shares(self, features: Tensor) -> Tensor:
        f = features.double()
        apart = torch.cdist(f, f).square() / f.shape[1]
        others = ~torch.eye(len(f), dtype=torch.bool)
        near = self.radius * float(apart[others].median()) if len(f) > 1 else 0.0
        density = (apart <= near).double().sum(1)
        unit = nn.functional.normalize(f, dim=1)
        variety = (1 - unit @ unit.T).sum(1)
        total = _scaled(density) + self.weight * _scaled(variety)
        if float(total.sum()) <= 0:
            total = torch.ones_like(total)
        return total / total.sum()


def _scaled(x: Tensor) -> Tensor:
    reach = float(x.max() - x.min())
    return (x - x.min()) / reach if reach > 0 else torch.zeros_like(x)


def counts(shares: Tensor, total: int, *, most: int) -> list[int]:
    """Whole numbers in proportion to shares [steps], none above `most`, that sum to `total`.

    Raises DataError where there are not so many.
    """
    if total > most * len(shares):
        raise DataError(
            f"{total} inputs are wanted of {len(shares)} steps with {most} each; draw more noises"
        )
    found = [0] * len(shares)
    want = shares / shares.sum()
    for _ in range(total):
        lack = want * total - torch.tensor(found, dtype=want.dtype)
        lack[torch.tensor(found) >= most] = -torch.inf
        found[int(lack.argmax())] += 1
    return found
