"""Free codes: coordinate descent over the whole grid, from any start; the error never rises."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from allot.num.formats import Grid
from allot.num.quadratic import Rows, grouped
from allot.num.rounding import Gptq, Rounding

# columns whose effect on the columns behind them is added up before it is applied; which size
# only re-associates sums
_BLOCK = 64
# a step must gain more than what rounding of float64 sums may feign
_FLOOR = 1e-9


@dataclass(frozen=True, kw_only=True)
class FreeCodes(Rounding):
    """Codes free to move over the whole grid, one column after the other (Behdin et al. 2023).

    The aim is that of AdaQuant (Hubara et al. 2020) and NUPES (Yvinec et al. 2023): codes that
    are not tied to the two values around the weight.  Those move continuous weights by gradients
    and round them; here every step is exact: given the other codes of its row, a code becomes
    the one of least output error.  The error never rises, and where fewer than `sweeps` passes
    over the columns were needed, no change of a single code improves it.

    damp: added to the gram's diagonal, relative to its mean; the error is that of the damped
    gram, with 0 exactly the layer's on the inputs seen.  Deviations from QuantEase: the start is
    another rounding (theirs is the unrounded weight), every pass is over codes on the grid, and
    the gram is damped: undamped, a single image made held-out error up to 1.7 times nearest's.

    Without a gram it is what `start` is without one.
    """

    start: Rounding = Gptq()  # noqa: RUF009 - frozen, shared by intent
    sweeps: int = 20
    damp: float = 0.01

    def codes(self, w: Tensor, scale: Tensor, fmt: Grid, gram: Tensor | None) -> Tensor:
        first = self.start.codes(w, scale, fmt, gram)
        if gram is None:
            return first
        rows = grouped(w, scale, fmt, gram, damp=self.damp)
        codes = first.double().reshape(rows.w.shape)
        for _ in range(self.sweeps):
            new = swept(rows, codes)
            if torch.equal(new, codes):
                break
            codes = new
        return codes.view(w.shape).to(torch.float32)


def swept(rows: Rows, codes: Tensor) -> Tensor:
    """Codes [g, o, k] after one pass in which every column in turn becomes the best it can be."""
    codes, k = codes.clone(), codes.shape[2]
    pull = rows.residual(codes) @ rows.gram
    for first in range(0, k, _BLOCK):
        last = min(first + _BLOCK, k)
        moved = torch.zeros_like(codes[:, :, first:last])
        for j in range(first, last):
            codes[:, :, j], step = _best(rows, codes[:, :, j], pull[:, :, j], j)
            moved[:, :, j - first] = step
            pull[:, :, j + 1 : last] += step[:, :, None] * rows.gram[:, None, j, j + 1 : last]
        pull[:, :, last:] += moved @ rows.gram[:, first:last, last:]
    return codes


def _best(rows: Rows, codes: Tensor, pull: Tensor, j: int) -> tuple[Tensor, Tensor]:
    """Column j given all others: its codes [g, o] and the change of its residual [g, o].

    With p = (d G)_j a change of d_j by t changes the error by t (2 p + t G_jj): the best value is
    the grid's nearest to value + p / G_jj.  A column that no input reaches stays.
    """
    curvature, unit = rows.gram[:, j, j][:, None], rows.scale[:, :, j]
    value = rows.grid.values(codes) * unit
    wish = torch.where(curvature > 0, pull / curvature, torch.zeros_like(pull))
    new = rows.grid.nearest((value + wish) / unit)
    step = value - rows.grid.values(new) * unit
    gain = step * (2 * pull + step * curvature)
    gains = gain < -_FLOOR * step.square() * curvature
    return torch.where(gains, new, codes), torch.where(gains, step, torch.zeros_like(step))
