"""Objective of the search: a Frechet distance to the original as a mean over samples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from allot.errors import InputError
from allot.judging.frechet import slopes
from allot.judging.judge import Judge, read

# of the squared feature error, beside the Frechet distance
WEIGHT = 0.1


def influences(original: Tensor, features: Tensor, *, weight: float = WEIGHT) -> Tensor:
    """Per-sample values [n] whose mean is |mean shift|^2 + Bures distance + weight * mean |f'-f|^2.

    original, features: f and f' [n, d] of the same noises.  The first two terms are the Frechet
    distance of both sets (covariances divided by n, with a ridge, see `slopes`): mean_j of
        2 <f'_j - f_j, s> - |s|^2                  s = mean_k (f'_k - f_k)
        x_j' (I - T) x_j + y_j' (I - T^-1) y_j     x, y centred f, f';  T transports A to B
    is |s|^2 and tr(A + B - 2 (A B)^(1/2)), because T has tr(A T) = tr(B T^-1) = tr (A B)^(1/2).
    They are also the distance's first-order change with a sample's weight, so their spread over
    sqrt(n) is its standard error; and the gradient of their mean is the distance's.  One value may
    be negative, the mean is not.  They belong to one set of samples: of a part of it, the mean is
    that part's own distance.
    """
    f, g = original.double(), features.double()
    moved = g - f
    shift = moved.mean(0)
    x, y = f - f.mean(0), g - g.mean(0)
    with torch.no_grad():
        there, back, ridge = slopes(x.T @ x / len(f), y.T @ y / len(f))
        rest = ridge * (there.trace() + back.trace())
    spread = ((x @ there) * x).sum(1) + ((y @ back) * y).sum(1) + rest
    mean = 2 * moved @ shift - shift @ shift
    return weight * moved.pow(2).sum(1) + mean + spread


@dataclass(frozen=True, kw_only=True, eq=False)
class FrechetToOriginal:
    """A `Task.divergence` for samplers: (the original's samples, samples) -> [n], float64.

    Pixel errors see noise and a systematic shift alike; this one ranks plans like the distance of
    distributions does (see `influences`).  weight: of the squared feature error, which tells plans
    apart that only exchange samples.
    """

    judge: Judge
    weight: float = WEIGHT

    def __call__(self, original: Tensor, samples: Tensor) -> Tensor:
        """Raises InputError for sets of different shapes."""
        if original.shape != samples.shape:
            raise InputError(
                f"both sets of samples come of the same noises; {list(original.shape)} and "
                f"{list(samples.shape)} were given"
            )
        with torch.no_grad():
            f = read(self.judge, original).features
        return influences(f, read(self.judge, samples).features, weight=self.weight)
