"""Walk: all weights of a planned network rounded together, for what the network puts out."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from allot.bank import Bank
from allot.errors import InputError
from allot.num.discrepancy import discquant
from allot.option import Option
from allot.options.standins import OnGrid
from allot.reconstruct.learning import Learning
from allot.reconstruct.soft import Soft, frame
from allot.recover import Moments
from allot.sweep import rewrapped, unwrapped
from allot.task import Inputs, Task, take

Standins = Mapping[str, nn.Module]
# low, high: the two values of every weight, [out, k] per layer; start: where it lies between, 0..1
Box = tuple[list[Tensor], list[Tensor], list[Tensor]]


@dataclass(frozen=True, kw_only=True)
class Discrepancy(Learning):
    """Every weight goes to one of its two neighbours on its grid, all of the network by one walk
    down the task's divergence from the original (DiscQuant, Chee et al. 2025).

    steps: of the walk, each on `batch` of the `samples` calibration inputs.  The others are those
    of `allot.num.discrepancy`: rounds of the push, each twice as hard; rate of Adam and what share
    of the steps it takes to rise (warm); strength of the first push; clip of a gradient's element.

    Deviations: the walk begins at the original weights, where the divergence is 0 (theirs at a
    random point; their code offers both), and codes that lose more on the samples than those that
    were there before (GPTQ's, say) are thrown away.  Scales, low-rank parts, biases and quantizers
    of tensors stay as they were, so `original` moments are not asked for.
    """

    steps: int = 400
    batch: int = 16
    samples: int = 512
    rounds: int = 4
    rate: float = 0.02
    strength: float = 0.1
    warm: float = 0.1
    clip: float = 10.0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "samples", "rounds"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is at least 1; {getattr(self, name)} was given")
        for name in ("rate", "strength", "clip"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is above 0; {getattr(self, name)} was given")

    def learned(
        self,
        bank: Bank,
        task: Task,
        options: Mapping[str, Option],
        *,
        standins: Mapping[str, nn.Module],
        original: Moments | None,
        seed: int,
        progress: Callable[[float], None],
    ) -> dict[str, nn.Module]:
        """All layers on a grid at once.

        Beyond the bank and the network, memory holds six numbers per weight, the outputs for all
        samples, and what a backward pass through the network takes.
        """
        walking = opened(standins)
        if not walking:
            return dict(standins)
        given = _Given.of(bank, task, samples=self.samples, batch=self.batch)
        low, high, start = box(bank, options, walking)
        order = _order(given.count, self.batch, self.steps, seed=seed)

        def slopes(weights: list[Tensor], step: int) -> tuple[float, list[Tensor]]:
            progress(step / self.steps)
            return given.slopes({**standins, **walking}, walking, weights, order[step])

        walked = discquant(
            low, high, start, slopes, steps=self.steps, seed=seed, rounds=self.rounds,
            rate=self.rate, strength=self.strength, clip=self.clip, warm=self.warm, begin=start,
        )  # fmt: skip
        _put(walking, walked.weights)
        hard = {n: rewrapped(standins[n], soft(m).hard()) for n, m in walking.items()}
        found = {**standins, **hard}
        progress(1.0)
        return found if given.lost(found) <= given.lost(standins) else dict(standins)
