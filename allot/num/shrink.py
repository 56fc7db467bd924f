"""Search for the scales of least p-norm error, all groups of a matrix at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from allot.num.grouped import Grouped, between, cover, ends, power, signs, stored
from allot.num.ranges import Fit

Candidate = tuple[Tensor, Tensor | None]
_REFITS = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Found:
    """The best of what was tried, of every group by itself: all [rows or 1, groups]."""

    scale: Tensor
    zero: Tensor | None
    error: Tensor


def covered(problem: Grouped) -> Candidate:
    """Stored scales, and zero points where the format has them, that reach over every group.

    Without zero points the sign of least magnitude is taken.
    """
    if problem.format.asymmetric:
        return between(problem, *ends(problem))
    best = cover(problem, 1.0)
    for sign in signs(problem.format)[1:]:
        other = cover(problem, sign)
        best = torch.where(other.abs() < best.abs(), other, best)
    return stored(problem, best), None


def searched(problem: Grouped, p: float, steps: int) -> Fit:
    """Stored scales and zero points of least error, at worst those that cover.

    Scales are compared as they are once stored.  Where they share something (a factor for the
    whole matrix), a first pass fixes the largest scale, a second chooses the others beside it.
    """
    start = scored(problem, covered(problem), p)
    best = start
    for candidate in candidates(problem, steps):
        best = better(problem, best, candidate, p)
    if problem.format.scales.fixed_bits:
        best = _beside_largest(problem, best, p, steps)
        if problem.total(start.error) < problem.total(best.error):
            best = start
    else:
        best = refined(problem, best, p, steps)
    return Fit(format=problem.format, scale=best.scale, zero=best.zero)


def scored(problem: Grouped, candidate: Candidate, p: float) -> Found:
    scale, zero = candidate
    return Found(scale=scale, zero=zero, error=problem.error(scale, zero, p))


def better(problem: Grouped, best: Found, candidate: Candidate, p: float) -> Found:
    """Of every group the candidate where it is strictly better."""
    found = scored(problem, candidate, p)
    gain = found.error < best.error
    zero = None
    if best.zero is not None and found.zero is not None:
        zero = torch.where(gain, found.zero, best.zero)
    return Found(
        scale=torch.where(gain, found.scale, best.scale),
        zero=zero,
        error=torch.where(gain, found.error, best.error),
    )


def candidates(problem: Grouped, steps: int) -> Iterator[Candidate]:
    """What is tried: stored scales, with zero points where the format has them."""
    if problem.format.asymmetric:
        yield from _spans(problem, steps)
        return
    grid = problem.format.grid
    base = problem.top / min(abs(end) for end in grid.reach if end)
    for sign in signs(problem.format):
        yield stored(problem, cover(problem, sign)), None
        for factor in _factors(grid.width, steps):
            yield stored(problem, base * (factor * sign)), None


def _factors(width: int, steps: int) -> list[float]:
    """Shares of the covering scale: `steps` even ones, and fewer far from it.

    Few levels on heavy tails want less than a fifth.  More than the cover brings the levels in
    between to where a small group has its elements; scales that round down need it too.
    """
    low, high = (0.2, 1.1) if width < 5 else (0.5, 1.0)
    even = torch.linspace(low, high, steps).tolist()
    beyond = torch.linspace(1.15, 2.1, 14).tolist() if width < 5 else [math.sqrt(2), 2.0]
    return [low * 2 ** (-i / 2) for i in (4, 3, 2, 1)] + even + beyond


def _spans(problem: Grouped, steps: int) -> Iterator[Candidate]:
    """Both ends drawn in or out, each by itself: about `steps` pairs."""
    low, high = ends(problem)
    least, most = (0.2, 1.6) if problem.format.grid.width < 5 else (0.5, 1.2)
    shares = torch.linspace(least, most, max(2, round(math.sqrt(steps)))).tolist()
    for a in shares:
        for b in shares:
            yield between(problem, low * a, high * b)


def refined(problem: Grouped, best: Found, p: float, steps: int) -> Found:
    """Near the best: zero points one off, then scales refitted to the codes that they give."""
    if best.zero is not None:
        at, hi = best, problem.format.grid.hi
        for off in (-1, 0, 1):
            zero = (best.zero + off).clamp(0, hi)
            for factor in torch.linspace(0.85, 1.15, max(2, steps // 4)).tolist():
                at = better(problem, at, (stored(problem, best.scale * factor), zero), p)
        best = at
    for _ in range(_REFITS):
        scale = refitted(problem, best, p)
        best = better(problem, best, (stored(problem, scale), best.zero), p)
    return best


def refitted(problem: Grouped, found: Found, p: float) -> Tensor:
    """Scales of least error for the codes that `found` gives: [rows or 1, groups].

    A weighted least-squares step; for p other than 2 errors are reweighted by |e|^(p-2).
    """
    parts = []
    for rows in problem.blocks():
        near, off = problem.rounded(found.scale, found.zero, rows)
        value = near if found.zero is None else near - found.zero[rows, :, None]
        weighted = value if p == 2 else value * power(off.abs().clamp(min=1e-3), p - 2)
        weight = problem.weights(rows)
        weighted = weighted if weight is None else weighted * weight
        x, norm = problem.values[rows], (weighted * value).sum(-1)
        parts.append((weighted * x).sum(-1) / norm)
    scale = torch.cat(parts)
    return torch.where(torch.isfinite(scale) & (scale != 0), scale, found.scale)


def _beside_largest(problem: Grouped, first: Found, p: float, steps: int) -> Found:
    """The search again with the largest scale held, so that what is shared stays as it is."""
    scale = stored(problem, first.scale)
    best = scored(problem, (scale, first.zero), p)
    peak = float(scale.abs().max())
    held = torch.zeros_like(scale, dtype=torch.bool)
    held.view(-1)[scale.abs().argmax()] = True
    for tried, zero in candidates(problem, steps):
        beside = torch.where(held, scale, tried.clamp(-peak, peak))
        best = better(problem, best, (stored(problem, beside), zero), p)
    return scored(problem, (stored(problem, best.scale), best.zero), p)
