"""Rollouts: a sampler run from the middle of its own way, and what a judge sees of the samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from allot.bank import Bank
from allot.errors import InputError
from allot.judging.judge import read
from allot.judging.objective import FrechetToOriginal
from allot.option import Option
from allot.sampling.grid import Seen
from allot.sampling.moment import Request
from allot.sampling.sampler import Sampler, State
from allot.table import Array
from allot.task import Data, Task


@dataclass(frozen=True, kw_only=True, eq=False)
class Rollouts:
    """A sampler's own run from some noises, kept at every step.

    options: site -> option of the run itself.  xs: x before each step, [n, ...].  seen: what each
    step's evaluation told.  features: what the judge sees of the final samples, [n, d].
    """

    bank: Bank
    options: Mapping[str, Option]
    conditions: Mapping[str, Tensor]
    look: Callable[[Tensor], Array]
    xs: Sequence[Tensor]
    seen: Sequence[Seen]
    features: Array

    def displaced(self, options: Mapping[str, Option], *, start: int) -> Array:
        """How far the features of the final samples are moved by other options, [n, d] in float64.

        options: site -> option, beside those of the run itself.  start: the first step that is run
        again; all before it must be as in the run itself.
        """
        standins = self.bank.standins({**self.options, **options})
        with self.bank.trial(standins) as model, torch.no_grad():
            assert isinstance(model, Sampler)
            state = State(
                x=self.xs[start],
                conditions=self.conditions,
                request=Request(),
                past=list(self.seen[:start]),
            )
            samples = run_from(model, state, start=start)
        return self.look(samples) - self.features


def run_from(sampler: Sampler, state: State, *, start: int) -> Tensor:
    """The samples of a run that stands before the step `start`: [n, ...]."""
    for step in list(sampler.steps)[start:]:
        state = step(sampler, state)
    end = sampler.grid.level(len(sampler.grid))
    return sampler.grid.move(state.x, state.past, end, last=True)


def rollouts(task: Task, bank: Bank, data: Data, options: Mapping[str, Option]) -> Rollouts:
    """The run under some options (site -> option) from all noises of the data, at once.

    Raises InputError for options that leave out a step, since every step is then a place to begin.
    """
    inputs = data.inputs
    assert isinstance(inputs, dict)
    conditions = {k: v for k, v in inputs.items() if k != "noise"}
    xs: list[Tensor] = []
    with bank.trial(bank.standins(options)) as model, torch.no_grad():
        assert isinstance(model, Sampler)
        start = model.grid.start * inputs["noise"]
        state = State(x=start, conditions=conditions, request=Request())
        for step in model.steps:
            xs.append(state.x)
            state = step(model, state)
        end = model.grid.level(len(model.grid))
        samples = model.grid.move(state.x, state.past, end, last=True)
    if len(state.past) != len(xs):
        raise InputError(f"{len(xs) - len(state.past)} of {len(xs)} steps are left out of the base")
    look = eyes(task)
    return Rollouts(
        bank=bank, options=options, conditions=conditions, look=look, xs=xs, seen=state.past,
        features=look(samples),
    )  # fmt: skip


def eyes(task: Task) -> Callable[[Tensor], Array]:
    """Samples [n, ...] -> features [n, d]: what the task's judge sees, else the samples' values."""
    divergence = task.divergence
    if isinstance(divergence, FrechetToOriginal):
        judge = divergence.judge

        def judged(samples: Tensor) -> Array:
            with torch.no_grad():
                return read(judge, samples).features.numpy().astype(np.float64)

        return judged
    return lambda samples: samples.flatten(1).double().numpy()
