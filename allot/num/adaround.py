"""AdaRound: up or down for every weight on any grid, learned on the layer's exact output error."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from allot.num.formats import Grid
from allot.num.quadratic import Rows, grouped
from allot.num.rounding import Gptq, Rounding

# the rectified sigmoid reaches from _LOW to _HIGH before it is cut to 0..1; beta falls from
# _SHARP to _BLUNT (the paper's values)
_LOW, _HIGH = -0.1, 1.1
_SHARP, _BLUNT = 20.0, 2.0
# how near 0 and 1 a variable may start: where it is cut it has no gradient
_EDGE = 0.02


@dataclass(frozen=True, kw_only=True)
class AdaRound(Rounding):
    """The code below or the one above every weight, learned for a row together (Nagel et al. 2020).

    A soft choice h in 0..1 of every weight, a rectified sigmoid, goes down the output error by
    Adam, while a regularizer 1 - |2h - 1|^beta with falling beta drives it to 0 or 1.  The pair
    of values is the grid's own (`below` and the next), so the step follows a float or table grid
    locally (as in FP4DiT, Chen et al. 2025).  No number is drawn at random.

    steps, rate: of Adam.  hardness: of the regularizer, relative to the error of one step in one
    weight.  damp: added to the gram's diagonal, relative to its mean.

    Deviations from the paper.  The error is tr((W - Q) G (W - Q)^T) with the whole gram G in
    every step, not that of a batch: exact for a layer without activation between, so that
    nothing but the gram is needed and there is no sampling; the layer's nonlinearity is not
    seen.  Every h starts half way between the weight and the code of `start` (the weight alone
    is a point of no gradient).  There is no phase without regularizer: it would stand still.
    Rows in which the result is not better than `start`, on the same damped gram, keep `start`.

    Without a gram it is what `start` is without one.
    """

    start: Rounding = Gptq()  # noqa: RUF009 - frozen, shared by intent
    steps: int = 500
    rate: float = 0.1
    hardness: float = 0.5
    damp: float = 0.01

    def codes(self, w: Tensor, scale: Tensor, fmt: Grid, gram: Tensor | None) -> Tensor:
        first = self.start.codes(w, scale, fmt, gram)
        if gram is None:
            return first
        rows = grouped(w, scale, fmt, gram, damp=self.damp)
        codes = first.double().reshape(rows.w.shape)
        with torch.no_grad():
            learned = self._learned(rows, codes)
        return rows.better(codes, learned).view(w.shape).to(torch.float32)

    def _learned(self, rows: Rows, codes: Tensor) -> Tensor:
        """The pair's codes [g, o, k] that Adam ends at."""
        below, unit, fraction = pairs(rows)
        left = rows.residual(below)
        start = (fraction + (codes - below).clamp(0, 1)) / 2
        start = start.clamp(_EDGE, 1 - _EDGE)
        logits = ((start - _LOW) / (_HIGH - start)).log().requires_grad_()
        adam = torch.optim.Adam([logits], lr=self.rate, fused=True)
        size = step_error(rows, unit)
        for i in range(self.steps):
            soft, slope = _rectified(logits)
            pull = -2 * ((left - soft * unit) @ rows.gram) * unit / size
            beta = _BLUNT + (_SHARP - _BLUNT) * (1 + math.cos(math.pi * i / self.steps)) / 2
            logits.grad = (pull + self.hardness * _hardening(soft, beta)) * slope
            adam.step()
        return below + (_rectified(logits)[0] >= 0.5)


def pairs(rows: Rows) -> tuple[Tensor, Tensor, Tensor]:
    """The code below every weight, the signed step to the next value, and where the weight lies
    between, 0..1: each [g, o, k].  A weight beyond the grid lies at its end."""
    ratio = rows.w / rows.scale
    below = rows.grid.below(ratio)
    low, high = rows.grid.values(below), rows.grid.values(below + 1)
    fraction = ((ratio - low) / (high - low)).clamp(0, 1)
    return below, (high - low) * rows.scale, fraction


def step_error(rows: Rows, unit: Tensor) -> Tensor:
    """Mean error of a row when one weight alone is off by its step: [g, o, 1], never 0."""
    curvature = rows.gram.diagonal(dim1=1, dim2=2)[:, None, :]
    tiny = torch.finfo(unit.dtype).tiny
    return (unit.square().mean(2, keepdim=True) * curvature.mean(2, keepdim=True)).clamp(min=tiny)


def _rectified(logits: Tensor) -> tuple[Tensor, Tensor]:
    """Rectified sigmoid and its derivative."""
    sigmoid = logits.sigmoid()
    soft = sigmoid * (_HIGH - _LOW) + _LOW
    inside = (soft > 0) & (soft < 1)
    return soft.clamp(0, 1), sigmoid * (1 - sigmoid) * (_HIGH - _LOW) * inside


def _hardening(soft: Tensor, beta: float) -> Tensor:
    """Derivative of 1 - |2h - 1|^beta."""
    side = 2 * soft - 1
    return -2 * beta * side.abs().pow(beta - 1) * side.sign()
