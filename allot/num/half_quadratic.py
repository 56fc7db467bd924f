"""Half-quadratic steps: scales and zero points that a few large errors do not pull."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from allot.num.grouped import Grouped, stored
from allot.num.ranges import Fit
from allot.num.shrink import better, covered, scored


@dataclass(frozen=True, kw_only=True, eq=False)
class _State:
    """Of every group, before rounding: [rows or 1, groups]."""

    scale: Tensor
    zero: Tensor


def proximal(problem: Grouped, p: float, beta: float, growth: float, steps: int) -> Fit:
    """Stored scales and whole zero points of least sum of weight * |w - Q(w)|^p seen on the way.

    Starts from the range that covers; each step sets the large errors apart, then fits the zero
    point and the scale to the rest, both in closed form.
    """
    start = covered(problem)
    best = scored(problem, start, p)
    assert best.zero is not None
    state = _State(scale=best.scale, zero=best.zero)
    for _ in range(steps):
        state = _step(problem, state, p, beta)
        zero = state.zero.round().clamp(problem.format.grid.lo, problem.format.grid.hi)
        best = better(problem, best, (stored(problem, state.scale), zero), p)
        beta *= growth
    return Fit(format=problem.format, scale=stored(problem, best.scale), zero=best.zero)


def _step(problem: Grouped, state: _State, p: float, beta: float) -> _State:
    scales, zeros = [], []
    for rows in problem.blocks():
        codes, off = problem.rounded(state.scale, state.zero, rows)
        rest = problem.values[rows] / state.scale[rows, :, None] - _shrunk(off, p, beta)
        weight = problem.weights(rows)
        h = torch.ones_like(rest) if weight is None else weight.expand_as(rest)
        zero = ((codes - rest) * h).sum(-1) / h.sum(-1)
        zero = zero.clamp(problem.format.grid.lo, problem.format.grid.hi)
        steps = codes - zero[..., None]
        factor = (h * steps * rest).sum(-1) / (h * steps * steps).sum(-1)
        factor = torch.where(torch.isfinite(factor) & (factor > 0), factor, 1.0)
        scales.append(state.scale[rows] * factor)
        zeros.append(zero)
    return _State(scale=torch.cat(scales), zero=torch.cat(zeros))


def _shrunk(x: Tensor, p: float, beta: float) -> Tensor:
    """Generalised soft threshold, the proximal step of |x|^p / beta: like x."""
    size = x.abs()
    return x.sign() * (size - size.clamp(min=1e-6).pow(p - 1) / beta).clamp(min=0)
