"""Ranges of weights: how far a grid reaches over each group that shares a scale.

Groups are fitted each for itself, all at a time; what is returned is what is stored, scales rounded
as the format stores them.  Zero points are whole numbers of the grid, so 0 has a code of its own
and every range holds it; weights do not need that, but a zero point stored in the bits of a code
allows nothing else, and a group that lies on one side of 0 leaves codes unused.

Every rule takes a curvature; where it plays no part, the rule says so.  All raise InputError for
weights or curvature that are not finite and for groups that do not divide.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from allot.errors import InputError
from allot.num.entropy import least_entropy
from allot.num.formats import Format
from allot.num.grouped import Grouped, between, grouped
from allot.num.half_quadratic import proximal
from allot.num.ranges import Fit, Ranges
from allot.num.shrink import covered, searched


@dataclass(frozen=True, kw_only=True)
class MinMax(Ranges):
    """The finest scale that reaches over the group; curvature plays no part.

    Of both signs the finer is taken where grid and scales allow it.  Beyond the reach lies at most
    what rounding of the stored scale takes from it, with zero points half a step more.
    """

    def fit(self, w: Tensor, fmt: Format, *, curvature: Tensor | None = None) -> Fit:
        scale, zero = covered(grouped(w, fmt, curvature))
        return Fit(format=fmt, scale=scale, zero=zero)


@dataclass(frozen=True, kw_only=True)
class Percentile(Ranges):
    """The least range that holds at least `share` of a group's elements; curvature plays no part.

    Without zero points: of their magnitudes.  With: as many are left out below as above.  Ranks,
    no interpolation.  A range that would hold zeros alone becomes the whole.
    """

    share: float

    def __post_init__(self) -> None:
        if not 0 < self.share <= 1:
            raise InputError(f"a share of elements lies in (0, 1]; {self.share} was given")

    def fit(self, w: Tensor, fmt: Format, *, curvature: Tensor | None = None) -> Fit:
        problem = grouped(w, fmt, curvature)
        if fmt.asymmetric:
            scale, zero = between(problem, *_inner(problem, self.share))
            return Fit(format=fmt, scale=scale, zero=zero)
        size = problem.values.abs()
        held = size.kthvalue(_rank(size, self.share), dim=-1).values
        limit = torch.where(held > 0, held, problem.top)[..., None]
        scale, _ = covered(replace(problem, values=problem.values.clamp(-limit, limit)))
        return Fit(format=fmt, scale=scale)


def _rank(x: Tensor, share: float) -> int:
    """How many of a group's elements are the share: 1 .. size."""
    return max(1, math.ceil(share * x.shape[-1] - 1e-9))


def _inner(problem: Grouped, share: float) -> tuple[Tensor, Tensor]:
    x = problem.values
    out = (x.shape[-1] - _rank(x, share)) // 2
    low = x.kthvalue(1 + out, dim=-1).values.clamp(max=0)
    high = x.kthvalue(x.shape[-1] - out, dim=-1).values.clamp(min=0)
    whole = high <= low
    return torch.where(whole, x.amin(-1).clamp(max=0), low), torch.where(
        whole, x.amax(-1).clamp(min=0), high
    )


@dataclass(frozen=True, kw_only=True)
class PNorm(Ranges):
    """Least sum of curvature * |w - Q(w)|^p of every group, by a search over shrunken ranges.

    steps: scales tried of each sign, or pairs of ends with zero points (an L2 shrink search as in
    Banner et al. 2019; with curvature the Fisher-weighted search).  Then scales are refitted to
    the codes they give, zero points moved by one.  Never worse than MinMax in this norm: in every
    group, or in all together where scales share something.  With p = 2 and integers a row, never
    worse than `row_scale`, whose candidates are among those tried.
    """

    p: float = 2.0
    steps: int = 64

    def __post_init__(self) -> None:
        if self.p <= 0 or self.steps < 2:
            raise InputError(
                f"a shrink search has p > 0 and 2 steps or more; p={self.p}, steps={self.steps}"
            )

    def fit(self, w: Tensor, fmt: Format, *, curvature: Tensor | None = None) -> Fit:
        return searched(grouped(w, fmt, curvature), self.p, self.steps)


@dataclass(frozen=True, kw_only=True)
class KLHistogram(Ranges):
    """The threshold that keeps most information (Migacz 2017, TensorRT); curvature plays no part.

    bins: of the histogram of a group, at most as many as it has elements; a threshold holds at
    least as many bins as the grid has values, so a group of fewer elements keeps its whole range.
    Deviations: bins that share a code are those nearest to its value, so that any grid will do
    (TensorRT merges equally many); histograms are signed, since grids and zero points are not
    symmetric; an empty bin has a probability of 1e-4 / bins, so that the divergence is finite; 64
    thresholds are tried, not one per bin.
    """

    bins: int = 1024

    def __post_init__(self) -> None:
        if self.bins < 2:
            raise InputError(f"a histogram has 2 bins or more; {self.bins} was given")

    def fit(self, w: Tensor, fmt: Format, *, curvature: Tensor | None = None) -> Fit:
        return least_entropy(grouped(w, fmt, curvature), self.bins)


@dataclass(frozen=True, kw_only=True)
class Hqq(Ranges):
    """Half-quadratic quantization (Badri and Shaji 2023): least |w - Q(w)|^p with p < 1, no data.

    beta, growth, steps: weight of the quadratic term, its factor from step to step, how many.
    Deviations: the published zero point is a float and alone optimised; here zero points are
    whole, which leaves it too little room, so the scale is fitted in the same step.  Errors are
    taken in units of the scale, so that the unit of the weights does not matter.  The best step is
    kept, by the p-norm of what is stored, so it is never worse than MinMax there (the published
    stop is on the mean absolute error).  Curvature, where given, weighs the elements (ours).
    """

    p: float = 0.7
    steps: int = 20
    beta: float = 10.0
    growth: float = 1.01

    def __post_init__(self) -> None:
        if not 0 < self.p <= 1 or self.beta <= 0 or self.growth < 1:
            raise InputError(
                "half-quadratic steps have p in (0, 1], beta > 0 and growth >= 1; "
                f"p={self.p}, beta={self.beta}, growth={self.growth}"
            )

    def fit(self, w: Tensor, fmt: Format, *, curvature: Tensor | None = None) -> Fit:
        if not fmt.asymmetric:
            raise InputError(
                "Hqq fits zero points; give it a format with asymmetric=True, or take PNorm"
            )
        return proximal(grouped(w, fmt, curvature), self.p, self.beta, self.growth, self.steps)
