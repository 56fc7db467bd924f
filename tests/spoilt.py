"""Spoilt: tiny tasks in which a search would run for hours before the fault shows by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from allot import Data, Task
from tests import tiny

HERE = __file__


class Doubtful(nn.Module):
    """Random for a sample of one kind alone: one whose first value is above `above`."""

    def __init__(self, above: float) -> None:
        super().__init__()
        self.above = above

    def forward(self, x: Tensor) -> Tensor:
        odd = (x.flatten(1)[:, :1] > self.above).view(-1, 1, 1, 1)
        return torch.where(odd, x + torch.rand_like(x), x)


class Root(nn.Module):
    """The square root of a mean that is negative for few samples."""

    def __init__(self, shift: float) -> None:
        super().__init__()
        self.shift = shift

    def forward(self, x: Tensor) -> Tensor:
        return x * (x.mean((1, 2, 3), keepdim=True) + self.shift).sqrt()


def before_chain(module: nn.Module, name: str) -> Task:
    """The tiny task with a module of that name before its network."""
    good = tiny.task()
    model = nn.Sequential()
    model.add_module(name, module)
    model.add_module("rest", good.model)
    return replace(good, model=model.eval())


def first_values(data: Data) -> Tensor:
    assert isinstance(data.inputs, Tensor)
    return data.inputs.flatten(1)[:, 0]


def single_class() -> Task:
    good = tiny.task()
    return replace(good, search=replace(good.search, labels=torch.full((48,), 3)))


def random_on_few() -> Task:
    """Not on the calibration samples that a trace runs, but on a search sample."""
    good = tiny.task()
    seen, searched = first_values(good.calibrate)[:2], first_values(good.search)[:32]
    above = float(seen.max())
    assert bool((searched > above).any())
    return before_chain(Doubtful(above), "doubtful")


def nan_on_few() -> Task:
    """On a single one of the samples that are searched on, and not on the first two at all."""
    good = tiny.task()

    def means(data: Data, n: int) -> Tensor:
        assert isinstance(data.inputs, Tensor)
        return data.inputs[:n].mean((1, 2, 3))

    lowest = means(good.search, 48).sort().values
    shift = -float(lowest[:2].mean())
    assert float(means(good.calibrate, 2).min()) + shift > 0
    images = good.calibrate.inputs
    assert isinstance(images, Tensor)
    kept = torch.cat([images[:2], (images[2:] - images[2:].mean((1, 2, 3), keepdim=True)) - shift])
    task = before_chain(Root(shift), "root")
    return replace(task, calibrate=replace(good.calibrate, inputs=kept + 0.5))


class Always(nn.Module):
    """Not a number, whatever comes in."""

    def forward(self, x: Tensor) -> Tensor:
        return x / torch.zeros_like(x) * 0


def nan_always() -> Task:
    return before_chain(nn.Sequential(nn.ReLU(), Always()), "front")


def overflowing() -> Task:
    """A forward, not a module, makes infinities."""
    good = tiny.task()

    def forward(model: nn.Module, batch: Any) -> Tensor:
        output: Tensor = model(batch)
        return torch.where(batch.flatten(1)[:, :1] > 2.2, output * torch.inf, output)

    return replace(good, forward=forward)
