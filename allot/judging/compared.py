"""Compared: one plan's samples beside the original's, and two plans beside each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from allot.errors import DataError
from allot.judging import kid
from allot.judging.coverage import covered, histogram_distance, shares
from allot.judging.feature_error import feature_errors
from allot.judging.fidelity import PEAK, WINDOW, squared_error, ssim
from allot.judging.frechet import Moments, changes, distance, moments, reweighted
from allot.judging.judge import Judge, read
from allot.judging.objective import influences
from allot.judging.resampled import (
    Estimate,
    Statistic,
    estimate,
    mean_of,
    of_blocks,
    of_changes,
)

PSNR, SSIM, ERROR = "psnr", "ssim", "feature error"
FRECHET, HISTOGRAM, COVERAGE, KID = "frechet", "class histogram", "coverage", "kid"
REAL_FRECHET, REAL_KID = "real frechet", "real kid"
# what figures can be at all
ANY, POSITIVE, SHARE = (-math.inf, math.inf), (0.0, math.inf), (0.0, 1.0)
# samples that figures need at least: two to a block of the kernel distance
LEAST = 2 * kid.BLOCKS
# features above which Frechet distances are not resampled: every draw takes the roots of matrices
MANY = 128
WITHIN = {SSIM: (-1.0, 1.0), ERROR: POSITIVE, HISTOGRAM: SHARE, COVERAGE: SHARE}


@dataclass(frozen=True, kw_only=True, eq=False)
class Compared:
    """Samples of a plan and of the original from the same n noises.

    judge: its digest.  squared, ssim, error: per sample [n]; ssim is None for what is no image of
    11 x 11 or more.  covered: 1 for samples of the original that the plan covers, [n].  features,
    was: the plan's and the original's [n, d].  classes, classes_were: 1 in the column of the class
    that each looks like, [n, classes].
    """

    judge: str
    peak: float
    squared: Tensor
    ssim: Tensor | None
    error: Tensor
    covered: Tensor
    features: Tensor
    was: Tensor
    classes: Tensor
    classes_were: Tensor

    def __len__(self) -> int:
        return len(self.squared)


def compare(judge: Judge, original: Tensor, samples: Tensor, *, peak: float = PEAK) -> Compared:
    """Everything about samples [n, ...] that figures are made of; peak: range of the data."""
    with torch.no_grad():
        was, now = read(judge, original), read(judge, samples)
    image = original.dim() == 4 and min(original.shape[2:]) >= WINDOW
    return Compared(
        judge=judge.digest,
        peak=peak,
        squared=squared_error(original, samples),
        ssim=ssim(original, samples, peak=peak) if image else None,
        error=feature_errors(judge, original, samples),
        covered=covered(was.features, now.features),
        features=now.features,
        was=was.features,
        classes=shares(now.logits),
        classes_were=shares(was.logits),
    )


def figures(plan: Compared, *, real: Tensor | None = None, seed: int = 0) -> dict[str, Estimate]:
    """Every figure of a plan of at least 32 samples with its 95 % interval over noises.

    real: features [m, d] of real data, which are taken as given; their kernel distance is between
    the first min(n, m) of both.  Intervals are those of `resampled.estimate`; of Frechet distances
    of a judge with more than 128 features those of `resampled.of_changes`.
    """
    n = len(plan)
    found = {
        k: estimate(s, n, seed=seed, within=WITHIN.get(k, ANY))
        for k, s in _statistics(plan).items()
    }
    found[FRECHET] = _to_original([plan], seed)
    found[KID] = of_blocks(kid.blocks(plan.was, plan.features), n)
    if real is not None:
        found[REAL_FRECHET] = _to_real([plan], moments(real), seed)
        found[REAL_KID] = of_blocks(_real_blocks(real, plan), n)
    return found


def differences(
    a: Compared, b: Compared, *, real: Tensor | None = None, seed: int = 0
) -> dict[str, Estimate]:
    """Every figure of plan b less that of plan a, with its paired 95 % interval over noises.

    Raises DataError for plans judged by two judges or on two sets of noises.
    """
    if a.judge != b.judge or a.was.shape != b.was.shape or not torch.equal(a.was, b.was):
        raise DataError(
            "two plans are compared by one judge on the same noises; these samples of the original "
            "are not the same"
        )
    n, first, second = len(a), _statistics(a), _statistics(b)
    found = {k: estimate(_between(second[k], first[k]), n, seed=seed) for k in first}
    found[FRECHET] = _to_original([b, a], seed)
    found[KID] = of_blocks(kid.blocks(b.was, b.features) - kid.blocks(a.was, a.features), n)
    if real is not None:
        found[REAL_FRECHET] = _to_real([b, a], moments(real), seed)
        found[REAL_KID] = of_blocks(_real_blocks(real, b) - _real_blocks(real, a), n)
    return found


def _statistics(plan: Compared) -> dict[str, Statistic]:
    """Figures that are cheap to resample."""
    n, squared = len(plan), mean_of(plan.squared)
    found: dict[str, Statistic] = {PSNR: lambda c: 10 * torch.log10(plan.peak**2 / squared(c))}
    if plan.ssim is not None:
        found[SSIM] = mean_of(plan.ssim)
    found[ERROR], found[COVERAGE] = mean_of(plan.error), mean_of(plan.covered)
    found[HISTOGRAM] = lambda c: histogram_distance(c @ plan.classes_were / n, c @ plan.classes / n)
    return found


def _between(second: Statistic, first: Statistic) -> Statistic:
    return lambda c: second(c) - first(c)


def _to_original(plans: Sequence[Compared], seed: int) -> Estimate:
    """Frechet distance of a plan to the original, of two that of the first less the second's."""
    was = plans[0].was
    if was.shape[1] <= MANY:
        return _resampled(plans, lambda c: reweighted(was, c), seed)
    return _first_order(
        plans, moments(was), [influences(was, p.features, weight=0.0) for p in plans]
    )


def _to_real(plans: Sequence[Compared], real: Moments, seed: int) -> Estimate:
    """The same to real data."""
    if len(real.mean) <= MANY:
        return _resampled(plans, lambda c: real, seed)
    return _first_order(plans, real, [changes(real, p.features) for p in plans])


def _resampled(plans: Sequence[Compared], to: Callable[[Tensor], Moments], seed: int) -> Estimate:
    def less(c: Tensor) -> Tensor:
        reference = to(c)  # one for both, so that its root is found once
        return _less([distance(reference, reweighted(p.features, c)) for p in plans])

    within = POSITIVE if len(plans) == 1 else ANY
    return estimate(less, len(plans[0]), seed=seed, within=within)


def _first_order(plans: Sequence[Compared], to: Moments, changed: Sequence[Tensor]) -> Estimate:
    value = _less([distance(to, moments(p.features)) for p in plans])
    within = POSITIVE if len(plans) == 1 else ANY
    return of_changes(float(value), _less(changed), within=within)


def _less(values: Sequence[Tensor]) -> Tensor:
    """The only one, or the first less the second."""
    return values[0] if len(values) == 1 else values[0] - values[1]


def _real_blocks(real: Tensor, plan: Compared) -> Tensor:
    n = min(len(real), len(plan))
    return kid.blocks(real[:n], plan.features[:n])
