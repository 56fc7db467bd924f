"""Live ranges: scale and zero point of every unit from the values themselves, when they come."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from allot.errors import InputError
from allot.num.affine import Range, covering
from allot.num.formats import Float32, Grid, Scales
from allot.part import Part


@dataclass(frozen=True, kw_only=True)
class AtRunTime(Part):
    """Nothing is fixed beforehand: every unit's own extremes times `clip`, when it comes.

    A unit of equal values is exact (to the precision of its scale) at clip 1.  scales: how a
    scale is rounded before it is used; one that makes a scale smaller clips.
    """

    clip: float = 1.0
    scales: Scales = Float32()  # noqa: RUF009 - frozen, shared by intent

    def __post_init__(self) -> None:
        if not 0 < self.clip <= 1:
            raise InputError(f"a clip ratio lies above 0 and up to 1, got {self.clip:g}")

    def fit(self, rows: Tensor, grid: Grid, *, samples: int) -> Range:
        """Ranges of units: rows [units, n] -> [units] each.

        samples: how many tensors the units come from, one after the other; scales that have
        something in common have it within one of them.
        """
        low, high = rows.amin(1).float() * self.clip, rows.amax(1).float() * self.clip
        scale, zero = covering(low, high, grid)
        if self.scales == Float32():
            return scale, zero
        parts = [self.scales.rounded(s[None])[0] for s in scale.view(samples, -1)]
        return torch.cat(parts), zero
