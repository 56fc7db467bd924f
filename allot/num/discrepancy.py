"""Discrepancy: rounding as a walk to a vertex of the box between the two values of every weight.

A point x in [0, 1]^n stands for the weights low + x (high - low).  Source of all here: Chee et al.
2025, DiscQuant.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from scipy.optimize import linprog
from torch import Tensor

from allot.errors import InputError, JobError
from allot.num.adaround import pairs, step_error
from allot.num.formats import Grid
from allot.num.quadratic import Rows, grouped
from allot.num.rounding import Rounding, wide

# nearer than this to 0 or 1 a coordinate has arrived
_ARRIVED = 1e-3
# by how much the push grows from one round to the next
_GROWTH = 2.0
# of Adam's moments that last through all rounds: batches are few
_BETAS = (0.9, 0.99)

# weights and the number of the step -> loss and its gradient at these weights
LossAndGrad = Callable[[list[Tensor], int], tuple[float, list[Tensor]]]


def vertex(gradients: Tensor, start: Tensor, *, cost: Tensor) -> Tensor:
    """The vertex of {x in [0, 1]^n: g x = g start} with the least cost x: a linear program.

    gradients g [m, n], start [n] in the box, cost [n] -> [n], float64.  A vertex has at most m
    coordinates strictly between 0 and 1, so all but m weights of n are rounded with every
    sample's loss unchanged to first order: the existence part of the paper, where it is shown
    with a random cost.  Raises InputError for a start outside the box, JobError where the solver
    (HiGHS dual simplex, which ends at vertices only) does not finish.
    """
    _check([start], [start], [start])
    c, g, x = (t.detach().double().cpu().numpy() for t in (cost, gradients, start))
    found = linprog(c, A_eq=g, b_eq=g @ x, bounds=(0, 1), method="highs-ds")
    if not found.success:
        raise JobError(f"the linear program of {start.numel()} weights failed: {found.message}")
    return torch.from_numpy(found.x).to(start.device)


def walk(
    start: Sequence[Tensor],
    gradient: Callable[[list[Tensor], int], list[Tensor]],
    *,
    toward: Sequence[Tensor],
    steps: int,
    rounds: int,
    rate: float,
    strength: float,
    warm: int = 0,
) -> list[Tensor]:
    """Projected Adam from start, down a loss and away from the middle: points in the box.

    gradient: of the loss at points, at a step's number; 1 is a usual size of its elements.
    In the first round every coordinate is pushed along 2 toward - 1, with that times strength.
    warm: 0 for a gradient that is exact, where Adam begins anew in every round and its rate falls
    along a cosine.  For that of a batch, so many steps in which the rate rises, once; it stays, and
    so do Adam's moments (a new Adam's first steps are all of full length, whatever they gain).
    Deviation from the paper: later rounds push along 2 x - 1 of where the round begins, twice as
    hard as the one before.  Published is one round; on layers of ResNet-20 at 4 and 2 bits it left
    a fifth of the coordinates between 0 and 1, and ended at 1.7 times the error of eight rounds.
    """
    points = [x.detach().clone().requires_grad_() for x in start]
    aim, length = toward, math.ceil(steps / rounds)
    adam = torch.optim.Adam(points, lr=rate, betas=_BETAS, fused=True)
    with torch.no_grad():
        for step in range(length * rounds):
            r, i = divmod(step, length)
            if i == 0:
                aim = aim if r == 0 else [x.detach().clone() for x in points]
                push = [strength * _GROWTH**r * (2 * x - 1) for x in aim]
                adam = adam if warm else torch.optim.Adam(points, lr=rate, fused=True)
            slopes = gradient([x.detach() for x in points], step)
            for x, slope, p in zip(points, slopes, push, strict=True):
                x.grad = slope - p
            along = (
                min(1.0, (step + 1) / warm) if warm else (1 + math.cos(math.pi * i / length)) / 2
            )
            adam.param_groups[0]["lr"] = rate * along
            adam.step()
            for x in points:
                x.clamp_(0, 1)
    return [x.detach() for x in points]


@dataclass(frozen=True, kw_only=True, eq=False)
class Walked:
    """Where a walk ended.

    weights: each element one of its two values.  ups: True where it is the upper.  between: share
    of the elements that the walk left between and nearest rounding finished.  losses: at every
    step of the walk.
    """

    weights: list[Tensor]
    ups: list[Tensor]
    between: float
    losses: list[float]


def discquant(
    low: Sequence[Tensor],
    high: Sequence[Tensor],
    start: Sequence[Tensor],
    loss_and_grad: LossAndGrad,
    *,
    steps: int,
    seed: int,
    rounds: int = 8,
    rate: float = 0.1,
    strength: float = 0.1,
    clip: float = 10.0,
    warm: int = 0,
    begin: Sequence[Tensor] | None = None,
) -> Walked:
    """Rounds all weights of a network at once, on any loss to the original's outputs.

    low, high: the values below and above every weight, tensors of any shapes; start: where the
    weights lie between, 0..1.  loss_and_grad: a divergence from the original's outputs (theirs is
    Kullback-Leibler), on a batch that may change with the step.  begin: where the walk begins; a
    random point of the box where not given, drawn with seed, as in the authors' code.

    Deviation: they scale the gradient by a constant to be tuned; here its root mean square at
    nearest rounding is made 1, and its elements are cut at `clip`.  See `walk` for the other one.
    Raises InputError where shapes differ or start lies outside the box.
    """
    _check(low, high, start)
    if begin is not None:
        _check(low, high, begin)
    spans = [h - b for b, h in zip(low, high, strict=True)]
    losses: list[float] = []

    def slopes(points: list[Tensor], step: int) -> list[Tensor]:
        loss, grads = loss_and_grad(_between(low, spans, points), step)
        losses.append(float(loss))
        return [g * span for g, span in zip(grads, spans, strict=True)]

    nearest = slopes([(x >= 0.5).to(x.dtype) for x in start], 0)
    losses.clear()
    size = _root_mean_square(nearest)
    generator = torch.Generator().manual_seed(seed)
    drawn = (torch.rand(x.shape, generator=generator).to(x) for x in start)
    ends = walk(
        list(drawn if begin is None else begin),
        lambda points, step: [(g / size).clamp(-clip, clip) for g in slopes(points, step)],
        toward=start,
        steps=steps,
        rounds=rounds,
        rate=rate,
        strength=strength,
        warm=warm,
    )
    ups = [x >= 0.5 for x in ends]
    weights = [torch.where(up, h, b) for up, b, h in zip(ups, low, high, strict=True)]
    return Walked(weights=weights, ups=ups, between=_share_between(ends), losses=losses)


@dataclass(frozen=True, kw_only=True)
class DiscRounding(Rounding):
    """The walk for one layer, with the gram as curvature: our layerwise form of DiscQuant.

    The loss is the layer's output error; the walk begins at the weights themselves, so no number
    is drawn.  damp: added to the gram's diagonal, relative to its mean.  Rows that end worse than
    nearest rounding, on the same damped gram, are rounded to nearest, as all are without a gram.
    """

    steps: int = 400
    rounds: int = 8
    rate: float = 0.1
    strength: float = 0.1
    damp: float = 0.01

    def codes(self, w: Tensor, scale: Tensor, fmt: Grid, gram: Tensor | None) -> Tensor:
        if gram is None:
            return fmt.nearest(w / wide(scale, w))
        rows = grouped(w, scale, fmt, gram, damp=self.damp)
        near = fmt.nearest(rows.w / rows.scale)
        return rows.better(near, self._walked(rows)).view(w.shape).to(torch.float32)

    def _walked(self, rows: Rows) -> Tensor:
        """Codes [g, o, k] where the walk ends."""
        below, unit, fraction = pairs(rows)
        left, size = rows.residual(below), step_error(rows, unit)
        ends = walk(
            [fraction],
            lambda x, _: [-2 * ((left - x[0] * unit) @ rows.gram) * unit / size],
            toward=[fraction],
            steps=self.steps,
            rounds=self.rounds,
            rate=self.rate,
            strength=self.strength,
        )
        return below + (ends[0] >= 0.5)


def _between(low: Sequence[Tensor], spans: list[Tensor], points: list[Tensor]) -> list[Tensor]:
    return [b + x * span for b, span, x in zip(low, spans, points, strict=True)]


def _root_mean_square(parts: list[Tensor]) -> float:
    """Of all elements; 1 where they are all 0."""
    total = sum(float(p.double().square().sum()) for p in parts)
    return math.sqrt(total / sum(p.numel() for p in parts)) or 1.0


def _share_between(points: list[Tensor]) -> float:
    still = sum(int(((x > _ARRIVED) & (x < 1 - _ARRIVED)).sum()) for x in points)
    return still / sum(x.numel() for x in points)


def _check(low: Sequence[Tensor], high: Sequence[Tensor], start: Sequence[Tensor]) -> None:
    shapes = [[tuple(x.shape) for x in part] for part in (low, high, start)]
    if shapes[0] != shapes[1] or shapes[0] != shapes[2]:
        raise InputError(
            f"lower values, upper values and start need the same shapes, not {shapes[0]}, "
            f"{shapes[1]} and {shapes[2]}"
        )
    for i, x in enumerate(start):
        if not bool(((x >= 0) & (x <= 1)).all()):
            raise InputError(
                f"start tensor {i} lies outside 0..1 ({float(x.min()):.4g} to "
                f"{float(x.max()):.4g}); a weight beyond its grid starts at the end it is beyond"
            )
