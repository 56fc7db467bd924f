"""Grids: an uneven one for tests."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from allot.num.formats import Table


@dataclass(frozen=True, kw_only=True)
class Uneven(Table):
    """Five values, not evenly spaced and not symmetric."""

    def levels(self) -> Tensor:
        return torch.tensor([-3.0, -1.0, 0.0, 0.5, 2.0], dtype=torch.float64)
