"""Rate-distortion: codes that weigh what they lose against the bits that a coder takes."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from allot.num.grids import Grid
from allot.num.histogram import lengths_of
from allot.num.rounding import inverse_factor

# times a column's codes are chosen, each time by the histogram of the ones before
_PASSES = 3
# what a code that did not occur counts as, so that it has a length
_FLOOR = 0.1


def rated_codes(
    w: Tensor, scale: Tensor, grid: Grid, gram: Tensor, *, harm: Tensor, price: float,
    damp: float = 0.01,
) -> Tensor:  # fmt: skip
    """Codes of least sum_o harm_o e_o gram e_o^T + price * bits: w [out, k] -> codes [out, k].

    scale, harm: [out].  gram [groups, k, k].  price: of a bit, in units of the first sum.  e: the
    error of a row.  bits: by the histogram of all codes, found in turns with them.

    Column by column like error-compensating rounding (Frantar et al. 2022), each weight to the
    nearest code, the next towards zero or zero, whichever is least of what it adds to the sum and
    what its bits cost: rate-distortion optimized quantization as video coders do it, with the
    error of later columns made up for.  With price 0 it is that rounding.
    """
    groups, k = gram.shape[0], gram.shape[-1]
    order = gram.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True, stable=True)
    rows = w.double().reshape(groups, -1, k)
    rows = rows.gather(2, order[:, None, :].expand_as(rows))
    sorted_gram = gram.double().gather(1, order[:, :, None].expand_as(gram))
    sorted_gram = sorted_gram.gather(2, order[:, None, :].expand_as(gram))
    upper = inverse_factor(sorted_gram, damp)
    unit, weight = (x.double().reshape(groups, -1) for x in (scale, harm))
    codes = grid.nearest(rows / unit[:, :, None])
    for _ in range(_PASSES if price > 0 else 1):
        lengths = _lengths(codes, grid)
        codes = _columns(rows, unit, grid, upper, weight=weight, costs=price * lengths)
    back = order.argsort(dim=1)
    return codes.gather(2, back[:, None, :].expand_as(codes)).reshape(w.shape).to(w.dtype)


def _lengths(codes: Tensor, grid: Grid) -> Tensor:
    """Bits of every code of the grid: [hi - lo + 1]."""
    found = torch.bincount((codes - grid.lo).long().flatten(), minlength=grid.hi - grid.lo + 1)
    return lengths_of(found.double(), floor=_FLOOR)


def _columns(
    rows: Tensor, unit: Tensor, grid: Grid, upper: Tensor, *, weight: Tensor, costs: Tensor
) -> Tensor:
    """rows [g, o, k], unit, weight [g, o], upper [g, k, k], costs per code -> codes [g, o, k]."""
    w, codes = rows.clone(), torch.empty_like(rows)
    middle = int(grid.nearest(w.new_zeros(1)))
    for j in range(w.shape[2]):
        x, pivot = w[:, :, j] / unit, upper[:, j, j][:, None]
        nearest = grid.nearest(x)
        inner = nearest - (nearest - middle).sign()
        choices = torch.stack([nearest, inner, torch.full_like(nearest, middle)])
        error = ((x - grid.values(choices)) * unit / pivot).square()
        total = weight * error + costs[(choices - grid.lo).long()]
        codes[:, :, j] = choices.gather(0, total.argmin(0, keepdim=True))[0]
        left = (w[:, :, j] - grid.values(codes[:, :, j]) * unit) / pivot
        w[:, :, j + 1 :] -= left[:, :, None] * upper[:, None, j, j + 1 :]
    return codes


def rated_scale(gram: Tensor, *, harm: Tensor, price: float, damp: float = 0.01) -> Tensor:
    """The scale [out] at which a bit more of precision is worth its price: 0 for price 0.

    gram [groups, k, k], harm [out].  A uniform quantizer of fine steps s errs by s^2 / 12 in each
    weight and halves s with each bit, so that harm * curvature * s^2 / 6 * ln 2 = price.  Its
    curvature is that of a weight while all later ones make up for it, on average over columns.
    Where steps are coarse, wider ones than that pay: on convolutions by a tenth.
    """
    upper = inverse_factor(gram.double(), damp)
    curvature = upper.diagonal(dim1=1, dim2=2).square().reciprocal().mean(1)
    per_row = curvature.repeat_interleave(len(harm) // len(curvature))
    least = 1e-2 * harm.double().mean().clamp(min=1e-30)
    found = 6 * price / (harm.double().clamp(min=least) * per_row * math.log(2))
    return 1.1 * found.sqrt()
