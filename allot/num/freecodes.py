"""Free codes: coordinate descent over the whole grid, from any start; the error never rises."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from allot.num.formats import Grid
from allot.num.quadratic import Rows, grouped
from allot.num.rounding import Gptq, Rounding
from allot.part import Part

# columns whose effect on the columns behind them is added up before it is applied
_BLOCK = 64


@dataclass(frozen=True, kw_only=True)
class FreeCodes(Rounding):
    """Codes free to move over the whole grid, one column after the other (Behdin et al. 2023).

    The aim is that of AdaQuant (Hubara et al. 2020) and NUPES (Yvinec et al. 2023), codes that
    are not tied to the two values around the weight; where these move continuous weights by
    gradients and round them, here every step is exact: given the other codes of a row, a code
    becomes the one of least output error.  Output error never rises, and the result is one that
    no change of a single code improves, unless `sweeps` passes over the columns end before.
    Columns are taken by falling curvature.  Deviation from QuantEase: it starts from `start`, and
    no pass is made over codes that are off the grid.

    Without a gram it is what `start` is without one.
    """

    start: Rounding = Gptq()  # noqa: RUF009 - frozen, shared by intent
    sweeps: int = 20

    def codes(self, w: Tensor, scale: Tensor, fmt: Grid, gram: Tensor | None) -> Tensor:
        first = self.start.codes(w, scale, fmt, gram)
        if gram is None:
            return first
        rows = grouped(w, scale, fmt, gram)
        codes = first.double().view_as(rows.w)
        order = rows.gram.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True, stable=True)
