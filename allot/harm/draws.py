"""Draws: random directions in output space whose second moment is a divergence's curvature."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from scipy.linalg import hadamard
from torch import Tensor

from allot.errors import InputError
from allot.task import Task

# relative size of the step on which a divergence shows its kind, and how well it must agree
_STEP, _AGREE = 0.3, 1e-3


@dataclass(frozen=True, kw_only=True)
class Curved(ABC):
    """A divergence known by its second derivative H per sample at the original's outputs."""

    @abstractmethod
    def value(self, original: Tensor, output: Tensor) -> Tensor:
        """The divergence: [n, ...], [n, ...] -> [n]."""

    @abstractmethod
    def directions(self, original: Tensor, signs: Tensor) -> Tensor:
        """xi [m, n, ...] with E[xi xi^T] = H over random signs [m, n, ...]."""


@dataclass(frozen=True, kw_only=True)
class Categorical(Curved):
    """weight * sum over positions of KL between softmaxes along `dim`.

    The direction sum_c sign_c sqrt(p_c) (e_c - p) has the same second moment as e_y - p for a
    label y drawn from p, which is the Fisher information, but bounded fourth moments: where the
    network is nearly sure, a drawn label almost always says nothing.
    """

    dim: int
    weight: float

    def value(self, original: Tensor, output: Tensor) -> Tensor:
        p = torch.log_softmax(original.double(), self.dim)
        q = torch.log_softmax(output.double(), self.dim)
        return self.weight * (p.exp() * (p - q)).flatten(1).sum(1)

    def directions(self, original: Tensor, signs: Tensor) -> Tensor:
        p = torch.softmax(original.double(), self.dim)
        x = signs * p.sqrt()
        dim = self.dim if self.dim < 0 else self.dim + 1
        found: Tensor = (x - p * x.sum(dim, keepdim=True)) * self.weight**0.5
        return found


@dataclass(frozen=True, kw_only=True)
class Squared(Curved):
    """weight * sum of squared differences."""

    weight: float

    def value(self, original: Tensor, output: Tensor) -> Tensor:
        return self.weight * (output - original).double().square().flatten(1).sum(1)

    def directions(self, original: Tensor, signs: Tensor) -> Tensor:
        return signs.double() * (2 * self.weight) ** 0.5


def curved(task: Task, original: Tensor, generator: torch.Generator) -> Curved:
    """What the task's divergence is, told from its values around original outputs [n, ...].

    Raises InputError for one that is neither a KL between softmaxes (along the second or the last
    dim, summed or averaged over positions) nor a multiple of the squared difference.
    """
    noise = torch.randn(original.shape, generator=generator).to(original)
    step = noise * (_STEP * float(original.std()) + 1e-6)
    for candidate in _candidates(task, original, step):
        if all(_agrees(task, candidate, original, original + t * step) for t in (1, 0.5)):
            return candidate
    raise InputError(
        f"the divergence of task {task.name!r} is neither a KL of softmax outputs nor a squared "
        "difference, so that it has no known curvature; a signal that only measures plans works"
    )


def _candidates(task: Task, original: Tensor, step: Tensor) -> list[Curved]:
    dims = [1] if original.dim() == 2 else [-1, 1]
    found: list[Curved] = []
    for dim in dims if original.dim() > 1 else ():
        positions = original[0].numel() // original.shape[dim]
        found += [Categorical(dim=dim, weight=w) for w in dict.fromkeys((1 / positions, 1.0))]
    size = float(step.double().square().flatten(1).sum(1)[0])
    weight = float(task.divergence(original, original + step)[0]) / size if size else 0.0
    return [*found, *([Squared(weight=weight)] if weight > 0 else [])]


def _agrees(task: Task, candidate: Curved, original: Tensor, output: Tensor) -> bool:
    want, got = task.divergence(original, output).double(), candidate.value(original, output)
    floor = float(want.abs().max()) * 1e-4
    return want.shape == got.shape and torch.allclose(got, want, rtol=_AGREE, atol=floor)


def signs(shape: torch.Size, draws: int, generator: torch.Generator) -> Tensor:
    """Random signs [draws, n, ...] for outputs of shape [n, ...], the same however n is cut.

    Between draws the signs of neighbouring outputs are orthogonal (rows of a Hadamard matrix):
    with a power of two of draws, as many as there are outputs per position, sums are exact.
    """
    once = torch.randint(0, 2, shape, generator=generator) * 2 - 1
    size = 1 << (draws - 1).bit_length()
    rows = torch.from_numpy(hadamard(size)[:draws])
    last = torch.arange(once[0].numel()) % size
    columns = rows[:, last].view(draws, 1, *shape[1:])
    return columns * once
