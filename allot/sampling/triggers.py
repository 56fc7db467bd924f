"""Triggers: what decides while sampling, for every sample alone, whether a span is computed."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from allot.part import Part
from allot.sampling.moment import Moment
from allot.sampling.probes import Probe, relative_change


@dataclass(frozen=True, kw_only=True, eq=False)
class Notes:
    """What a trigger remembers of every sample of a request, [n] each.

    probe: [n, ...], the value that the next one is compared with.  total: change so far.  age:
    decisions in a row to take again.
    """

    probe: Tensor
    total: Tensor
    age: Tensor


class Trigger(Protocol):
    """Decides from a probe; a span of which there is no earlier result is computed in any case."""

    @property
    def probe(self) -> Probe | None:
        """Where it looks; None for the first argument of the span's first module."""

    @property
    def remembers(self) -> Hashable:
        """Key of its notes, of one kind for triggers that may share them; None for no notes."""

    def decided(self, seen: Tensor, notes: Notes | None, moment: Moment) -> Tensor:
        """[n] bool, true for samples that take the earlier result again."""

    def noted(self, seen: Tensor, notes: Notes | None, again: Tensor | None) -> Notes:
        """Notes after a decision (again [n]) or after all were computed (None)."""


@dataclass(frozen=True, kw_only=True)
class Changed(Part):
    """Computed when the probe has changed enough.

    The relative change (mean magnitude of the difference over that of the value before) is put
    through a polynomial (curve: coefficients, constant first) and compared with the threshold.
    summed: changes from step to step add up until the span is computed (TeaCache, Liu et al. 2024);
    else the change is the one since the step that computed it (first-block cache, as in
    ParaAttention and diffusers).  most: steps in a row that may take a result again, None for any.
    Threshold 0 computes always.  Both sources decide for the whole batch at once; here a sample
    gets what it would get alone.
    """

    probe: Probe
    threshold: float
    curve: tuple[float, ...] = (0.0, 1.0)
    summed: bool = False
    most: int | None = None

    @property
    def remembers(self) -> Hashable:
        return (self.probe, self.summed, self.curve)

    def decided(self, seen: Tensor, notes: Notes | None, moment: Moment) -> Tensor:
        if notes is None:
            return torch.zeros(len(seen), dtype=torch.bool, device=seen.device)
        again = self._total(seen, notes) < self.threshold
        return again if self.most is None else again & (notes.age < self.most)

    def noted(self, seen: Tensor, notes: Notes | None, again: Tensor | None) -> Notes:
        if notes is None or again is None:
            none = torch.zeros(len(seen), dtype=torch.float64, device=seen.device)
            return Notes(probe=seen, total=none, age=none.long())
        return Notes(
            probe=seen if self.summed else rowwise(again, notes.probe, seen),
            total=self._total(seen, notes) * again if self.summed else notes.total,
            age=(notes.age + 1) * again,
        )

    def _total(self, seen: Tensor, notes: Notes) -> Tensor:
        return notes.total + polynomial(self.curve, relative_change(seen, notes.probe))


def polynomial(curve: tuple[float, ...], x: Tensor) -> Tensor:
    """Value of a polynomial, constant first, by Horner's rule."""
    y = torch.zeros_like(x)
    for c in reversed(curve):
        y = y * x + c
    return y


def rowwise(where: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """Rows of a [n, ...] where true [n], else of b."""
    return torch.where(where.reshape(-1, *[1] * (a.dim() - 1)), a, b)
