"""Spans: parts of a network that a step leaves out, and what says what they would have given."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from allot.part import Part
from allot.sampling.moment import Moment

# what of a span is kept: what leaves it, or what it adds to what enters
OUTPUT, RESIDUAL = "output", "residual"


@dataclass(frozen=True, kw_only=True)
class Span(Part):
    """Modules that run one after the other, left out together.

    modules: qualified names inside the denoiser, in execution order; what the last one returns is
    what is kept.  keeps: OUTPUT, or RESIDUAL: the one tensor that leaves the last minus the first
    argument of the first, which must be of one shape.  shared: keyword arguments of the modules
    that are the same for every sample; all other tensors as long as the batch have a row of each.
    """

    name: str
    modules: tuple[str, ...]
    keeps: str = OUTPUT
    shared: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Kept:
    """One result of a span. step, log_snr: of the moment it was computed at.  value: [n, ...].
    entry: which tensor of several that leave the span."""

    step: int
    log_snr: float
    value: Tensor
    entry: int = 0


class Predictor(Protocol):
    """Says what a span would give now from what it gave before (latest last), [n, ...].

    One that reads nothing gives what can be spread over [n, ...].
    """

    def predict(self, past: Sequence[Kept], moment: Moment) -> Tensor: ...

    @property
    def needs(self) -> int:
        """How many earlier results it reads."""

    @property
    def label(self) -> str:
        """Short name, part of the option's."""


@dataclass(frozen=True, kw_only=True)
class Hold(Part):
    """The latest result again (DeepCache, Ma et al. 2024; FORA, Selvaraju et al. 2024)."""

    @property
    def label(self) -> str:
        return "hold"

    @property
    def needs(self) -> int:
        return 1

    def predict(self, past: Sequence[Kept], moment: Moment) -> Tensor:
        return past[-1].value


@dataclass(frozen=True, kw_only=True)
class Taylor(Part):
    """Extrapolated in log signal-to-noise ratio by divided differences (after TaylorSeer, Liu et
    al. 2025, which extrapolates in the number of the step: wrong once steps are uneven)."""

    order: int = 1

    @property
    def label(self) -> str:
        return f"taylor{self.order}"

    @property
    def needs(self) -> int:
        return self.order + 1

    def predict(self, past: Sequence[Kept], moment: Moment) -> Tensor:
        used = past[-self.needs :]
        at = moment.level.log_snr
        if not math.isfinite(at) or not all(math.isfinite(k.log_snr) for k in used):
            return past[-1].value
        total = torch.zeros_like(used[0].value)
        for i, k in enumerate(used):
            others = [o.log_snr for j, o in enumerate(used) if j != i]
            total = total + k.value * math.prod((at - s) / (k.log_snr - s) for s in others)
        return total


@dataclass(frozen=True, kw_only=True)
class Nothing(Part):
    """Zero, without a memory: a residual span is then the identity, as if it were not there."""

    @property
    def label(self) -> str:
        return "nothing"

    @property
    def needs(self) -> int:
        return 0

    def predict(self, past: Sequence[Kept], moment: Moment) -> Tensor:
        return torch.zeros(())


HOLD, NOTHING = Hold(), Nothing()
