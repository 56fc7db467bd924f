"""Ranges of activations: the scale and zero point with which values are best put on a grid."""

from __future__ import annotations

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from allot.errors import InputError
from allot.num.affine import Range, covering, ends, rounded
from allot.num.formats import Grid
from allot.part import Part

_STEPS = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Seen:
    """What calibration saw of a tensor whose units (itself, its channels) have a range each.

    values [units, n]: a sample.  low, high [units]: the extremes of all values.  tokens [t, 2]:
    least and largest value of every token.  rows [m, n]: some whole tokens.  centres, counts
    [bins]: a histogram of all values.  What a rule does not read may be absent; tokens and
    histograms are of a tensor of one unit.
    """

    values: Tensor
    low: Tensor
    high: Tensor
    tokens: Tensor | None = None
    rows: Tensor | None = None
    centres: Tensor | None = None
    counts: Tensor | None = None


class ActivationRange(Part):
    """A rule that turns what was seen into ranges.

    reads_tokens, reads_histogram: whether it is for whole tensors and reads what they name.
    """

    reads_tokens: ClassVar[bool] = False
    reads_histogram: ClassVar[bool] = False

    @property
    @abstractmethod
    def label(self) -> str:
        """Short name; "" for the usual rule."""

    @abstractmethod
    def fit(self, seen: Seen, grid: Grid) -> Range:
        """scale, zero: [units], float32; scales are positive."""


def check_least(least: float) -> None:
    if not 0 < least <= 1:
        raise InputError(f"the least share that is tried lies above 0 and up to 1, got {least:g}")


@dataclass(frozen=True, kw_only=True)
class MinMax(ActivationRange):
    """All that was seen."""

    @property
    def label(self) -> str:
        return "minmax"

    def fit(self, seen: Seen, grid: Grid) -> Range:
        return covering(seen.low.float(), seen.high.float(), grid)


@dataclass(frozen=True, kw_only=True)
class Percentile(ActivationRange):
    """All but a share of the sample at each end.

    percent: of the values that lie below the upper and above the lower end of the range.
    """

    percent: float = 99.9

    def __post_init__(self) -> None:
        if not 50 < self.percent <= 100:
            raise InputError(f"a percentile lies above 50 and up to 100, got {self.percent}")

    @property
    def label(self) -> str:
        return f"p{self.percent:g}"

    def fit(self, seen: Seen, grid: Grid) -> Range:
        values = seen.values.double().sort(dim=1).values
        share = self.percent / 100
        high, low = quantile(values, share), quantile(values, 1 - share)
        return covering(low.float(), high.float(), grid)


def quantile(ordered: Tensor, share: float) -> Tensor:
    """Linear between neighbours: ordered [..., n] -> [...]; torch's own takes 2^24 values."""
    place = share * (ordered.shape[-1] - 1)
    at = min(int(place), ordered.shape[-1] - 1)
    after = min(at + 1, ordered.shape[-1] - 1)
    return ordered[..., at] + (place - at) * (ordered[..., after] - ordered[..., at])


@dataclass(frozen=True, kw_only=True)
class Shrink(ActivationRange):
    """Shares of the whole range in turn; that of least error |x - Q(x)|^power in the sample.

    Banner et al. (2019) search so for power 2; Nagel et al. (2021), section 3.1, compare norms.
    least: the smallest share tried; lower it for few bits and large outliers.
    """

    power: float = 2.0
    least: float = 0.3

    def __post_init__(self) -> None:
        check_least(self.least)
        if not self.power > 0:
            raise InputError(f"errors are raised to a positive power, got {self.power:g}")

    @property
    def label(self) -> str:
        power = "" if self.power == 2 else f"l{self.power:g}"
        return power + ("" if self.least == 0.3 else f"from{self.least:g}")

    def fit(self, seen: Seen, grid: Grid) -> Range:
        low, high = seen.low.float(), seen.high.float()
        shares = torch.linspace(self.least, 1.0, _STEPS).tolist()
        return _best([covering(low * s, high * s, grid) for s in shares], seen, grid, self.power)


def _errors(seen: Seen, found: Range, grid: Grid, power: float) -> Tensor:
    """Sum of |x - Q(x)|^power over the sample: [units], float64."""
    values = seen.values.float()
    q = rounded(values, found[0][:, None], found[1][:, None], grid)
    return (values - q).abs().pow(power).double().sum(1)


def _best(ranges: list[Range], seen: Seen, grid: Grid, power: float) -> Range:
    """Of some ranges the one of least error, for every unit."""
    errors = torch.stack([_errors(seen, r, grid, power) for r in ranges])
    at = errors.argmin(0)[None]
    scale, zero = (torch.stack([r[k] for r in ranges]).gather(0, at)[0] for k in (0, 1))
    return scale, zero


@dataclass(frozen=True, kw_only=True)
class KlHistogram(ActivationRange):
    """The share of the whole range at which the clipped histogram diverges least from its image.

    P is the histogram with what lies outside added to its outer bins, Q what lies inside, that of
    every code spread evenly over the bins in which there is something (Migacz 2017).  Three
    deviations: any grid and both signs, since a bin belongs to the code of its centre; the two
    bins at zero are left out, since zero is exact; Q is at least 1e-9, lest it be infinite.
    """

    reads_histogram: ClassVar[bool] = True
    least: float = 0.05

    def __post_init__(self) -> None:
        check_least(self.least)

    @property
    def label(self) -> str:
        return "kl"

    def fit(self, seen: Seen, grid: Grid) -> Range:
        assert seen.centres is not None and seen.counts is not None
        low, high = seen.low.float(), seen.high.float()
        shares = torch.linspace(self.least, 1.0, _STEPS).tolist()
        ranges = [covering(low * s, high * s, grid) for s in shares]
        losses = [_divergence(seen.centres, seen.counts, r, grid) for r in ranges]
        return ranges[losses.index(min(losses))]


def _divergence(centres: Tensor, counts: Tensor, found: Range, grid: Grid) -> float:
    """KL of the clipped histogram from its image on the grid; infinite where nothing is inside."""
    bin_width = float(centres[1] - centres[0])
    counts = counts.double() * (centres.abs() > bin_width)
    if counts.sum() == 0:
        return 0.0
    low, high = ends(*found, grid)
    inside = ((centres >= low) & (centres <= high)).nonzero()[:, 0]
    raw = counts[inside]
    if raw.sum() == 0:
        return math.inf
    values = rounded(centres[inside].float(), *found, grid)
    _, code = values.unique(return_inverse=True)
    full = torch.zeros(int(code.max()) + 1, dtype=torch.float64)
    mass, bins = full.index_add(0, code, raw), full.index_add(0, code, (raw > 0).double())
    q = (mass / bins.clamp(min=1))[code] * (raw > 0)
    p = raw.clone()
    p[0] += counts[: int(inside[0])].sum()
    p[-1] += counts[int(inside[-1]) + 1 :].sum()
    p, q = p / p.sum(), (q / q.sum()).clamp(min=1e-9)
    return float(torch.where(p > 0, p * (p / q).log(), torch.zeros_like(p)).sum())
