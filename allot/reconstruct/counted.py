"""Counted: a whole network learned at a price of the bits that its codes take."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from allot.num.histogram import entropy_bits, soft_bits
from allot.options.standins import QuantizedLayer, shallow
from allot.reconstruct.learning import Planned
from allot.reconstruct.soft import Free
from allot.reconstruct.units import blocks
from allot.sweep import Observer, left_out, observed, outputs, rewrapped, unwrapped
from allot.task import Inputs, Task, take

if TYPE_CHECKING:
    from allot.reconstruct.rated import Rated

Standins = Mapping[str, nn.Module]
# how fast the price follows bits that stray from their goal
_FOLLOWS = 0.5


def descended(
    planned: Planned, standins: Standins, *, setting: Rated, price: float, goal: float
) -> dict[str, nn.Module]:
    """Stand-ins after learning: weights in integers, norms and biases.

    The loss is the divergence from the original, the error of blocks' outputs, and `price` (in
    nats) times the soft count of bits; the price rises while codes take more than `goal` bits.
    Those of before stay where the divergence on the samples did not fall.
    """
    made = _opened(planned, standins)
    given = _Given.of(planned, standins, samples=setting.samples, batch=setting.batch)
    learning = [
        {"params": [m.variable for m in made.soft], "rate": setting.rate},
        {"params": made.others, "rate": setting.other_rate},
    ]
    adam = torch.optim.Adam([g for g in learning if g["params"]], lr=setting.rate)
    for step, index in enumerate(given.order(setting.steps, seed=planned.seed)):
        falling = (1 + math.cos(math.pi * step / setting.steps)) / 2
        for group in adam.param_groups:
            group["lr"] = group["rate"] * falling
        adam.zero_grad()
        with torch.enable_grad():
            loss = given.loss({**standins, **made.modules}, index, features=setting.features)
            (loss + price * made.soft_bits()).backward()
        adam.step()
        price *= math.exp(_FOLLOWS * (made.bits() / goal - 1))
        planned.progress(0.2 + 0.8 * (step + 1) / setting.steps)
    found = {**standins, **made.hard()}
    return found if given.lost(found) <= given.lost(standins) else dict(standins)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Opened:
    """modules: what is learned of a network, by name, in the wrappers that it has.  soft: those
    with codes.  others: parameters of norms, and biases."""

    modules: dict[str, nn.Module]
    soft: list[Free]
    others: list[nn.Parameter]

    def soft_bits(self) -> Tensor:
        """What the codes would take by their soft histograms."""
        grids = [(m.variable, m.frame.grid) for m in self.soft]
        return torch.stack([soft_bits(x, grid.lo, grid.hi) for x, grid in grids]).sum()

    def bits(self) -> float:
        """What the codes take as they are now."""
        each = [np.unique(m.codes().numpy(), return_counts=True)[1] for m in self.soft]
        return sum(entropy_bits(n.astype(np.int64)) for n in each)

    def hard(self) -> dict[str, nn.Module]:
        return {n: rewrapped(m, _hardened(unwrapped(m))) for n, m in self.modules.items()}


def _hardened(module: nn.Module) -> nn.Module:
    if isinstance(module, Free):
        return module.hard()
    return shallow(module).requires_grad_(False)


def _opened(planned: Planned, standins: Standins) -> _Opened:
    bank, made = planned.bank, _Opened(modules={}, soft=[], others=[])
    with bank.trial(standins) as model:
        norms = [n for n in bank.graph.norms if not left_out(model, n)]
    for name in (*standins, *(n for n in norms if n not in standins)):
        module = standins.get(name, bank.module(name))
        layer = unwrapped(module)
        if isinstance(layer, QuantizedLayer):
            unrounded = unwrapped(bank.unrounded(name, planned.options))
            assert isinstance(unrounded, nn.Conv2d | nn.Linear)
            latent = Free(layer, unrounded.weight.detach())
            made.soft.append(latent)
            made.others.extend(_variable(latent.inner, "bias"))
            made.modules[name] = rewrapped(module, latent)
        elif name in norms and isinstance(layer, nn.modules.batchnorm._BatchNorm | nn.LayerNorm):
            new = shallow(layer)
            made.others.extend([*_variable(new, "weight"), *_variable(new, "bias")])
            made.modules[name] = rewrapped(module, new)
    return made


def _variable(module: nn.Module, name: str) -> list[nn.Parameter]:
    """A parameter of a module as a variable of its own (in place), if it has it."""
    old = module._parameters.get(name)
    if old is None:
        return []
    new = nn.Parameter(old.detach().clone())
    module._parameters[name] = new
    return [new]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Given:
    """The calibration inputs and what the original gives for them.

    finals: outputs [n, ...].  units: blocks whose outputs are compared.  batch: of a step.
    """

    planned: Planned
    inputs: Inputs
    finals: Tensor
    units: tuple[str, ...]
    batch: int

    @classmethod
    def of(cls, planned: Planned, standins: Standins, *, samples: int, batch: int) -> _Given:
        bank, task = planned.bank, planned.task
        data = task.calibrate.subset(slice(0, samples))
        finals = outputs(task, bank.skeleton, data, batch=batch)
        alone = [unit[0] for unit in blocks(bank.graph) if len(unit) == 1]
        given = cls(planned=planned, inputs=data.inputs, finals=finals, units=(), batch=batch)
        first = torch.arange(1)
        with bank.trial(standins) as model:
            there = [u for u in alone if not left_out(model, u)]
        wanted = replace(given, units=tuple(there)).wanted(first)
        with bank.trial(standins) as model, torch.no_grad():
            found = _run(model, task, take(data.inputs, first), wanted)[1]
        # what is narrower than the original's cannot be compared with it
        same = tuple(u for u in wanted if u in found and found[u].shape == wanted[u].shape)
        return replace(given, units=same)

    def order(self, steps: int, *, seed: int) -> list[Tensor]:
        """Places of the samples of every step, all of them once before any again."""
        n = len(self.finals)
        batch, generator = min(n, self.batch), torch.Generator().manual_seed(seed)
        rounds = -(-steps * batch // n)
        drawn = torch.cat([torch.randperm(n, generator=generator) for _ in range(rounds)])
        return list(drawn[: steps * batch].split(batch))

    def wanted(self, index: Tensor) -> dict[str, Tensor]:
        """What the original's blocks give for some samples."""
        with torch.no_grad():
            units = dict.fromkeys(self.units, torch.empty(0))
            x = take(self.inputs, index)
            return _run(self.planned.bank.skeleton, self.planned.task, x, units)[1]

    def loss(self, standins: Standins, index: Tensor, *, features: float) -> Tensor:
        """Mean divergence on some samples, and the blocks' relative errors."""
        wanted = self.wanted(index) if features else {}
        task = self.planned.task
        with self.planned.bank.trial(standins) as model:
            output, found = _run(model, task, take(self.inputs, index), wanted)
        loss = task.divergence(self.finals[index], output).mean()
        errors = [_relative(found[u], wanted[u]) for u in wanted]
        return loss + features * torch.stack(errors).mean() if errors else loss

    def lost(self, standins: Standins) -> float:
        """Mean divergence on all samples, in nats."""
        parts = torch.arange(len(self.finals)).split(self.batch)
        with torch.no_grad():
            means = [float(self.loss(standins, i, features=0.0)) * len(i) for i in parts]
        return sum(means) / len(self.finals)


def _run(
    model: nn.Module, task: Task, inputs: Inputs, units: Mapping[str, Tensor]
) -> tuple[Tensor, dict[str, Tensor]]:
    """The network's output, and the last of every unit."""
    found: dict[str, Tensor] = {}

    def keeper(name: str) -> Observer:
        def keep(y: Tensor) -> None:
            # a copy: what follows may work in place
            found[name] = y.clone()

        return keep

    with observed(model, {(name, "out"): [keeper(name)] for name in units}):
        return task.forward(model, inputs), found


def _relative(x: Tensor, goal: Tensor) -> Tensor:
    return (x - goal).square().mean() / goal.square().mean().clamp(min=1e-12)
