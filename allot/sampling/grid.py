"""Grid: the noise levels of a sampler, and how its steps lead from any of them to any other."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from allot.part import Part
from allot.sampling.moment import Level

# what networks predict: the noise, the clean sample, signal * noise - noise * sample (Salimans and
# Ho 2022), or noise - sample (flow matching, Lipman et al. 2023)
EPSILON, SAMPLE, VELOCITY, FLOW = "epsilon", "sample", "v_prediction", "flow"


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """One evaluation: at which level, and the sample and noise that it told of, [n, ...]."""

    level: Level
    sample: Tensor
    noise: Tensor


@dataclass(frozen=True, kw_only=True)
class Grid(Part):
    """Noise levels from pure noise to none.

    times, signals, noises: per step.  end_signal, end_noise: where the last step leads to.
    predicts: one of EPSILON, SAMPLE, VELOCITY, FLOW.  order: 1 for DDIM (Song et al. 2021) and,
    equal to it for networks that are told of normalized inputs, Euler steps in noise / signal and
    in flow time; 2 for DPM-Solver++ 2M (Lu et al. 2022).  last_first_order: the step to the end is
    of order 1 whatever `order` says.  start: what pure noise is multiplied with.  clip: largest
    magnitude of a predicted sample, None for any.
    """

    times: tuple[float, ...]
    signals: tuple[float, ...]
    noises: tuple[float, ...]
    end_signal: float = 1.0
    end_noise: float = 0.0
    predicts: str = EPSILON
    order: int = 1
    last_first_order: bool = True
    start: float = 1.0
    clip: float | None = None

    def __len__(self) -> int:
        return len(self.times)

    def level(self, step: int) -> Level:
        """The level of a step; of the end for `len(grid)`."""
        if step == len(self):
            return Level(time=0.0, signal=self.end_signal, noise=self.end_noise)
        return Level(time=self.times[step], signal=self.signals[step], noise=self.noises[step])

    def read(self, x: Tensor, output: Tensor, level: Level) -> Seen:
        """What the network's output at x [n, ...] tells of sample and noise."""
        a, s = level.signal, level.noise
        if self.predicts == EPSILON:
            sample, noise = (x - s * output) / a, output
        elif self.predicts == SAMPLE:
            sample, noise = output, (x - a * output) / s
        elif self.predicts == VELOCITY:
            sample, noise = a * x - s * output, a * output + s * x
        else:
            sample, noise = x - s * output, x + a * output
        if self.clip is not None:
            sample = sample.clamp(-self.clip, self.clip)
        return Seen(level=level, sample=sample, noise=noise)

    def move(self, x: Tensor, past: Sequence[Seen], to: Level, *, last: bool = False) -> Tensor:
        """x [n, ...] at the latest level of the past, taken to another level; exact for any pair.

        past: evaluations so far, latest last.  last: the step to the end.
        """
        if not past:
            return x
        now = past[-1]
        if self.order == 1:
            return to.signal * now.sample + to.noise * now.noise
        first = len(past) == 1 or to.noise == 0 or (last and self.last_first_order)
        return _multistep(x, now, None if first else past[-2], to)


def _multistep(x: Tensor, now: Seen, before: Seen | None, to: Level) -> Tensor:
    """A step of DPM-Solver++ on predicted samples; without an earlier one of first order."""
    if to.noise == 0:
        return to.signal * now.sample
    h = to.log_snr - now.level.log_snr
    weight = -to.signal * math.expm1(-h)
    moved = (to.noise / now.level.noise) * x + weight * now.sample
    if before is None:
        return moved
    r = h / (now.level.log_snr - before.level.log_snr)
    return moved + 0.5 * weight * r * (now.sample - before.sample)


def stacked(grid: Grid) -> Tensor:
    """The grid as a tensor [4, steps + 1], so that it counts among a sampler's weights."""
    levels = [grid.level(i) for i in range(len(grid) + 1)]
    rows = [[x.time, x.signal, x.noise, grid.start] for x in levels]
    return torch.tensor(rows, dtype=torch.float64).T.contiguous()
