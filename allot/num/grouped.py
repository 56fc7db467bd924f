"""A matrix cut into the groups that share a scale, and what scales cost it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from allot.errors import InputError
from allot.num.distance import distance
from allot.num.formats import Format

# elements taken at a time: what is computed on them stays in the cache
_BLOCK = 1 << 16
# a group whose covering scale is smaller counts as one of zeros
_LEAST = 2.0**-100


@dataclass(frozen=True, kw_only=True, eq=False)
class Grouped:
    """A matrix [rows, k] as [rows or 1, groups, size], float32.

    misses: how far numbers in units of a scale lie from the grid.
    weight: how much an error of each element counts, of mean 1 in every group, [rows or 1, groups,
    size], or None for all alike.  mass [rows or 1, groups]: the mean that was taken out.
    """

    format: Format
    misses: Callable[[Tensor], Tensor]
    values: Tensor
    weight: Tensor | None
    mass: Tensor

    @property
    def top(self) -> Tensor:
        """Largest magnitude of every group: [rows or 1, groups]."""
        return self.values.abs().amax(-1)

    def blocks(self) -> Iterator[slice]:
        """Rows that are worked on together."""
        rows = len(self.values)
        size = max(1, _BLOCK // max(1, self.values[0].numel()))
        return (slice(i, i + size) for i in range(0, rows, size))

    def weights(self, rows: slice) -> Tensor | None:
        if self.weight is None or len(self.weight) == 1:
            return self.weight
        return self.weight[rows]

    def error(self, scale: Tensor, zero: Tensor | None, p: float) -> Tensor:
        """Sum of weight * |w - Q(w)|^p in every group: scale, zero, result [rows or 1, groups]."""
        parts = []
        for rows in self.blocks():
            cost = power(self.misses(self.units(scale, zero, rows)), p)
            weight = self.weights(rows)
            parts.append((cost if weight is None else cost.mul_(weight)).sum(-1))
        return torch.cat(parts) * power(scale, p)

    def total(self, error: Tensor) -> float:
        """Errors of groups [rows or 1, groups] as one number, by the curvature that was given."""
        return float((error.double() * self.mass).sum())

    def rounded(self, scale: Tensor, zero: Tensor | None, rows: slice) -> tuple[Tensor, Tensor]:
        """Nearest values of the grid, and by how much w misses them, in units of the scale."""
        u = self.units(scale, zero, rows)
        grid = self.format.grid
        near = grid.values(grid.nearest(u))
        return near, u - near

    def units(self, scale: Tensor, zero: Tensor | None, rows: slice) -> Tensor:
        """Where values lie on the grid."""
        u = self.values[rows] / scale[rows, :, None]
        return u if zero is None else u + zero[rows, :, None]


def power(x: Tensor, p: float) -> Tensor:
    """|x|^p, a new tensor."""
    if p == 2:
        return x.square()
    return x.abs() if p == 1 else x.abs().pow_(p)


def grouped(w: Tensor, fmt: Format, curvature: Tensor | None) -> Grouped:
    """w [rows, k], curvature [rows, k] or [1, k] -> the same in groups.

    A group whose curvature is zero throughout counts its elements alike, so that it has a scale.
    Raises InputError where a number is not finite, curvature is negative or has another shape, or
    the groups do not divide k.
    """
    rows, k = w.shape
    outer, groups = fmt.shape(rows, k)
    if not bool(torch.isfinite(w).all()):
        raise InputError(
            f"a matrix of {rows} x {k} weights holds NaN or infinity; no scale fits it"
        )
    values = w.detach().float().reshape(outer, groups, -1)
    misses = distance(fmt.grid)
    if curvature is None:
        mass = values.new_ones(1, 1)
        return Grouped(format=fmt, misses=misses, values=values, weight=None, mass=mass)
    _check(curvature, rows, k)
    h = curvature.detach().to(values)
    if outer == 1 and fmt.group < 0:
        h = h.expand(rows, k)
    h = h.reshape(1 if outer == 1 else len(h), groups, -1)
    mass = h.mean(-1)
    weight = torch.where(mass[..., None] > 0, h / mass[..., None], 1.0)
    return Grouped(format=fmt, misses=misses, values=values, weight=weight, mass=mass)


def _check(curvature: Tensor, rows: int, k: int) -> None:
    if tuple(curvature.shape) not in ((rows, k), (1, k)):
        raise InputError(
            f"curvature of {rows} x {k} weights is [{rows}, {k}] or [1, {k}]; "
            f"{list(curvature.shape)} was given"
        )
    if not bool((torch.isfinite(curvature) & (curvature >= 0)).all()):
        raise InputError(f"curvature of {rows} x {k} weights is finite and not negative")


def signs(fmt: Format) -> tuple[float, ...]:
    """Signs of scales worth trying: both where the grid is not symmetric and scales are signed."""
    codes = torch.arange(fmt.grid.lo, fmt.grid.hi + 1, dtype=torch.float64)
    levels = fmt.grid.values(codes)
    if fmt.asymmetric or torch.allclose(levels, -levels.flip(0), rtol=1e-6, atol=0):
        return (1.0,)
    return (1.0, -1.0) if float(fmt.scales.rounded(-torch.ones(1, 1))) < 0 else (1.0,)


def stored(problem: Grouped, scale: Tensor) -> Tensor:
    """Scales [rows or 1, groups] as they are once stored.

    A group of zeros gets scale 1; where scales share something, which it must not decide, the
    largest of the others; where the grid has no 0, the least that can be stored.
    """
    fmt = problem.format
    zeros = (problem.top < _LEAST) | (scale == 0)
    fill = torch.ones_like(scale)
    if float(problem.misses(torch.zeros(1))) > 0:
        fill = fill * _LEAST
    elif fmt.scales.fixed_bits and not bool(zeros.all()):
        fill = fill * scale[~zeros].abs().max()
    return fmt.scales.rounded(torch.where(zeros, fill, scale))


def cover(problem: Grouped, sign: float) -> Tensor:
    """Least scale of this sign, zero points aside, whose grid reaches over the group, unrounded.

    A side that the grid lacks is left out.  [rows or 1, groups], signed.
    """
    low, high = problem.format.grid.reach
    side = problem.values * sign
    needs = [side.amax(-1).clamp(min=0) / high] if high > 0 else []
    needs += [side.amin(-1).clamp(max=0) / low] if low < 0 else []
    return torch.stack(needs).amax(0) * sign


def ends(problem: Grouped) -> tuple[Tensor, Tensor]:
    """The range of every group, with 0 in it: two of [rows or 1, groups]."""
    return problem.values.amin(-1).clamp(max=0), problem.values.amax(-1).clamp(min=0)


def between(problem: Grouped, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Stored scales and whole zero points of a grid that spans low <= 0 <= high of each group."""
    hi = problem.format.grid.hi
    scale = stored(problem, (high - low) / hi)
    return scale, (-low / scale).round().clamp(0, hi)
