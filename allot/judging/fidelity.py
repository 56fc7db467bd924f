"""Fidelity: how near two sets of images are, pixel by pixel, when both came of the same noises."""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional

from allot.errors import DataError, InputError

# of the window and of the constants that keep quotients finite (Wang et al. 2004, section III)
WINDOW, DEVIATION = 11, 1.5
K1, K2 = 0.01, 0.03
# from -1 to 1
PEAK = 2.0


def squared_error(original: Tensor, samples: Tensor) -> Tensor:
    """Mean squared difference per sample: [n, ...], [n, ...] -> [n] in float64.

    Raises DataError for sets of different shapes.
    """
    _check(original, samples)
    return (samples.double() - original.double()).pow(2).flatten(1).mean(1)


def psnr(error: float, *, peak: float = PEAK) -> float:
    """Peak signal-to-noise ratio in dB of a mean squared error; infinite for none.

    peak: from the least to the greatest value of the data.  Of many samples it is taken of their
    mean error: the mean of ratios is infinite as soon as one sample is exact.
    """
    return math.inf if error == 0 else 10 * math.log10(peak**2 / error)


def ssim(original: Tensor, samples: Tensor, *, peak: float = PEAK) -> Tensor:
    """Structural similarity per image, 1 for equal ones (Wang et al. 2004): [n, c, h, w] -> [n].

    Gaussian window of 11 x 11 with deviation 1.5, moments of the population, only places where the
    whole window lies inside; channels apart, then averaged.  Raises DataError for sets of different
    shapes, InputError for images smaller than the window.
    """
    _check(original, samples)
    if original.dim() != 4 or min(original.shape[2:]) < WINDOW:
        raise InputError(
            f"structural similarity needs images [n, c, h, w] of at least {WINDOW} x {WINDOW}; "
            f"{list(original.shape)} was given"
        )
    a, b = original.double(), samples.double()
    mean_a, mean_b = _windowed(a), _windowed(b)
    var_a, var_b = _windowed(a * a) - mean_a**2, _windowed(b * b) - mean_b**2
    shared = _windowed(a * b) - mean_a * mean_b
    c1, c2 = (K1 * peak) ** 2, (K2 * peak) ** 2
    light = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * shared + c2) / (var_a + var_b + c2)
    return (light * structure).flatten(1).mean(1)


def _windowed(x: Tensor) -> Tensor:
    """Weighted mean over every window: [n, c, h, w] -> [n, c, h - 10, w - 10]."""
    place = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    line = torch.exp(-(place**2) / (2 * DEVIATION**2))
    line = line / line.sum()
    n, c, h, w = x.shape
    flat = x.reshape(n * c, 1, h, w)
    flat = functional.conv2d(flat, line.view(1, 1, -1, 1))
    flat = functional.conv2d(flat, line.view(1, 1, 1, -1))
    return flat.view(n, c, *flat.shape[2:])


def _check(original: Tensor, samples: Tensor) -> None:
    if original.shape != samples.shape or not len(original):
        raise DataError(
            "samples of the same noises are compared one by one, so both sets need one shape "
            f"[n, ...], n >= 1; {list(original.shape)} and {list(samples.shape)} were given"
        )
