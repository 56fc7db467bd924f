"""Routers: learned so that each token still goes to the experts that it went to."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from allot.mixtures import mixtures
from allot.reconstruct.losses import Divergence, Given, Goal, Loss
from allot.reconstruct.units import Unit, Units
from allot.site import Graph


@dataclass(frozen=True, kw_only=True)
class Routers(Units):
    """The router of every mixture of experts (`mixtures`); everything else stays as it is."""

    def of(self, graph: Graph) -> tuple[Unit, ...]:
        return tuple((m.router,) for m in mixtures(graph))


@dataclass(frozen=True, kw_only=True)
class RouterKL(Loss):
    """KL divergence from the original's choice among experts, the softmax of its scores, to the
    unit's, in nats per token (EAQuant, Fu et al. 2025; over all experts, where they also try the
    likeliest alone).
    """

    def value(self, given: Given, goal: Goal, divergence: Divergence) -> Tensor:
        p = torch.log_softmax(goal.output.double(), dim=-1)
        q = torch.log_softmax(given.output.double(), dim=-1)
        # rounding may take it below 0 where both agree
        return (p.exp() * (p - q)).sum(-1).mean().clamp(min=0)
