"""Smooth: factors and shifts per channel that make activations and weights easier to round."""

from __future__ import annotations

import torch
from torch import Tensor

from allot.num.formats import Encoded, Format, Grid


def balanced(inputs: Tensor, weights: Tensor, strength: float) -> Tensor:
    """inputs^a / weights^(1 - a), of largest magnitudes per channel [k] (Xiao et al. 2023, eq. 4).

    Inputs are divided by it, weights multiplied.  One where a channel has no input or no weight.
    """
    dead = (inputs <= 0) | (weights <= 0)
    found = inputs.clamp(min=1e-12) ** strength / weights.clamp(min=1e-12) ** (1 - strength)
    return torch.where(dead, torch.ones_like(found), found.clamp(1e-5, 1e5))


def salient(inputs: Tensor, strength: float) -> Tensor:
    """inputs^a of mean magnitudes per channel [k], centred so that largest times least is one.

    Lin et al. 2023, eq. 5; the centring as their program does it.  One where a channel has none.
    """
    dead = inputs <= 0
    if bool(dead.all()):
        return torch.ones_like(inputs)
    least = inputs[~dead].min()
    found = torch.where(dead, least, inputs) ** strength
    found = found / (found.max() * found.min()).sqrt()
    return torch.where(dead, torch.ones_like(found), found.clamp(1e-4, 1e4))


def middle(low: Tensor, high: Tensor) -> Tensor:
    """The shift [k] that centres every channel (Wei et al. 2023, eq. 3)."""
    return (low + high) / 2


def tamed(sizes: Tensor, threshold: float) -> Tensor:
    """Factors [k], at least one, that bring every channel's magnitude down to a threshold.

    sizes: largest magnitudes [k] after the shift (Wei et al. 2023, eq. 7).
    """
    return (sizes / threshold).clamp(min=1.0)


def on_format(w: Tensor, format: Format) -> Tensor:
    """The values [rows, k] of nearest codes, with scales (and zero points) from the extremes.

    Raises InputError where the groups do not divide k.
    """
    rows, k = w.shape
    shape = format.shape(rows, k)
    parts = w.reshape(shape[0], shape[1], -1)
    low, high = parts.amin(2).clamp(max=0), parts.amax(2).clamp(min=0)
    least, most = format.grid.reach
    if format.asymmetric:
        scale = format.scales.rounded(_positive((high - low) / (most - least)))
        zero = (-low / scale).round().clamp(least, most)
    else:
        scale, zero = format.scales.rounded(_positive(torch.maximum(high, -low) / most)), None
    x = w / format.spread(scale, k)
    codes = format.grid.nearest(x if zero is None else x + format.spread(zero, k))
    return Encoded(format=format, codes=codes, scale=scale, zero=zero).values().to(w)


def per_token(x: Tensor, grid: Grid) -> Tensor:
    """Values of the nearest codes, each token with a scale of its own: [..., k] -> like x."""
    scale = _positive(x.abs().amax(-1, keepdim=True) / grid.reach[1])
    return grid.values(grid.nearest(x / scale)).to(x) * scale


def output_error(
    x: Tensor, w: Tensor, *, factor: Tensor, weight: Format, activation: Grid | None
) -> float:
    """Squared error of x w^T, summed, when x / factor and w * factor are what is rounded.

    x [n, k], w [out, k], factor [k]; without a grid for activations only weights are rounded.
    """
    seen = x / factor
    seen = seen if activation is None else per_token(seen, activation)
    return float((x @ w.T - seen @ on_format(w * factor, weight).T).double().square().sum())


def _positive(scale: Tensor) -> Tensor:
    """Scales with one in place of zero: what is all zero needs none."""
    return torch.where(scale > 0, scale, torch.ones_like(scale))
