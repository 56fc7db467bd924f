"""Mixture: four experts and a router behind a norm, with outliers and a rare expert if wanted."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from allot.task import Task
from tests import small, toys
from tests.rewrites import proofs

READERS = ("router", *(f"experts.{i}.up" for i in range(4)))


class Expert(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, hidden), nn.Linear(hidden, 8)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(nn.functional.silu(self.up(x)))


class Mixture(nn.Module):
    """Tokens through a norm, then each through two of four experts, chosen by a router.

    also: the norm is read by something else too.  dense: every expert reads all tokens and what it
    says to those that are not sent to it is left out, in a forward that can be exported.
    """

    def __init__(
        self,
        norm: nn.Module | None = None,
        *,
        also: bool = False,
        dense: bool = False,
        hidden: int = 16,
    ) -> None:
        super().__init__()
        self.dense = dense
        self.norm, self.also = nn.LayerNorm(8) if norm is None else norm, also
        self.router = nn.Linear(8, 4)
        self.experts = nn.ModuleList(Expert(hidden) for _ in range(4))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        h = self.norm(x)
        flat = h.reshape(-1, 8)
        weights, chosen = torch.softmax(self.router(flat), 1).topk(2, dim=1)
        said = self._all if self.dense else self._sent
        x = x + said(flat, weights, chosen).view_as(x)
        return self.head((x + h if self.also else x).mean(1))

    def _sent(self, flat: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        out = torch.zeros_like(flat)
        for i, expert in enumerate(self.experts):
            rows, rank = torch.where(chosen == i)
            if len(rows):
                out.index_add_(0, rows, expert(flat[rows]) * weights[rows, rank][:, None])
        return out

    def _all(self, flat: Tensor, weights: Tensor, chosen: Tensor) -> Tensor:
        out = torch.zeros_like(flat)
        for i, expert in enumerate(self.experts):
            gate = (weights * (chosen == i)).sum(1, keepdim=True)
            out = out + expert(flat) * gate
        return out


def planted(model: Mixture | None = None, *, seed: int = 0) -> Mixture:
    """Two channels come out of the norm forty times as large, and are read with less weight."""
    model = Mixture() if model is None else model
    toys.seeded(model, seed)
    with torch.no_grad():
        model.norm.weight.copy_(torch.ones(8))  # type: ignore[operator]
        for p in model.norm.parameters():
            p[[2, 5]] *= 40
        for name in READERS:
            model.get_submodule(name).weight[:, [2, 5]] /= 40  # type: ignore[index, operator]
    return model


def rare(expert: int, bias: float, *, seed: int = 0) -> Mixture:
    """The planted mixture, one expert seldom chosen: its score is moved by a bias."""
    model = planted(seed=seed)
    with torch.no_grad():
        model.router.bias.zero_()
        model.router.bias[expert] = bias
    return model


def tokens(n: int) -> Tensor:
    """Inputs of six tokens each: [n, 6, 8]."""
    return torch.randn(n, 6, 8, generator=torch.Generator().manual_seed(3))


def task(model: nn.Module | None = None, *, n: int = 60) -> Task:
    """A task on three thirds of n samples."""
    return proofs.of(planted() if model is None else model, tokens(n))


def chosen(t: Task, model: nn.Module) -> Tensor:
    """The experts that the router of a network, perhaps quantized, picks on the search set:
    [tokens, 2] in rising order."""
    found: list[Tensor] = []

    def note(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        found.append(output.topk(2, 1).indices)

    handle = model.get_submodule("router").register_forward_hook(note)
    small.forward(t, model, t.search)
    handle.remove()
    return torch.cat(found).sort(1).values
