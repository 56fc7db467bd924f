"""Losses of a unit: how far what it gives is from what it gave in the original."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from allot.errors import InputError
from allot.part import Part

Divergence = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True, kw_only=True, eq=False)
class Given:
    """What a call gives: the output that the loss is of, and those of layers inside the unit."""

    output: Tensor
    inner: tuple[Tensor, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Goal(Given):
    """What the original gave.  weight: of the output's elements, or None; mean 1 over all calls."""

    weight: Tensor | None = None


class Loss(Part):
    """What is made small.

    whole: of the network's output, all behind the unit in float; else of the unit's.  weighted: it
    wants squared gradients of the divergence.  inner: it wants outputs of layers in the unit.
    """

    whole: ClassVar[bool] = False
    weighted: ClassVar[bool] = False
    inner: ClassVar[bool] = False

    @abstractmethod
    def value(self, given: Given, goal: Goal, divergence: Divergence) -> Tensor:
        """A scalar, not below 0, and 0 where given and goal agree; a mean over samples."""


@dataclass(frozen=True, kw_only=True)
class OutputMSE(Loss):
    """Mean squared error of the unit's output."""

    def value(self, given: Given, goal: Goal, divergence: Divergence) -> Tensor:
        return (given.output - goal.output).square().mean()


@dataclass(frozen=True, kw_only=True)
class FisherWeighted(Loss):
    """Squared error, each element times the squared gradient of the divergence with respect to the
    unit's output: the diagonal of the Fisher information (BRECQ, Li et al. 2021).

    As theirs it is taken where all up to the unit is quantized and the rest is not: at the original
    the divergence has no gradient.
    """

    weighted: ClassVar[bool] = True

    def value(self, given: Given, goal: Goal, divergence: Divergence) -> Tensor:
        assert goal.weight is not None
        return ((given.output - goal.output).square() * goal.weight).mean()


@dataclass(frozen=True, kw_only=True)
class InnerOutput(Loss):
    """Error of the unit's output with that of the layers in it (behind their norm), each over the
    mean square of what it should be.

    share: weight of the mean over inner layers; the output has 1.
    """

    inner: ClassVar[bool] = True
    share: float = 0.5

    def __post_init__(self) -> None:
        if not self.share >= 0:
            raise InputError(f"the share of inner outputs is not below 0; {self.share} was given")

    def value(self, given: Given, goal: Goal, divergence: Divergence) -> Tensor:
        total = _relative(given.output, goal.output)
        if not goal.inner:
            return total
        pairs = zip(given.inner, goal.inner, strict=True)
        return total + self.share * torch.stack([_relative(a, b) for a, b in pairs]).mean()


@dataclass(frozen=True, kw_only=True)
class FinalKL(Loss):
    """The task's divergence at the network's output, with everything behind the unit in float."""

    whole: ClassVar[bool] = True

    def value(self, given: Given, goal: Goal, divergence: Divergence) -> Tensor:
        return divergence(goal.output, given.output).mean()


def _relative(x: Tensor, goal: Tensor) -> Tensor:
    return (x - goal).square().mean() / goal.square().mean().clamp(min=1e-12)
