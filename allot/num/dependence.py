"""Dependence: how much two sets of features of the same samples have to do with each other."""

from __future__ import annotations

import torch
from torch import Tensor


def hsic(k: Tensor, l: Tensor) -> float:  # noqa: E741 - the paper's letter
    """tr(K H L H) / (n - 1)^2, the biased estimate of the Hilbert-Schmidt norm of the
    cross-covariance (Gretton et al. 2005): kernel matrices k, l [n, n], H = I - 1/n.

    Never negative for kernels; its mean for independent samples falls as 1/n.  0 for one sample.
    """
    n = len(k)
    return float((centred(k) * centred(l)).sum()) / (n - 1) ** 2 if n > 1 else 0.0


def centred(k: Tensor) -> Tensor:
    """H K H: rows and columns that sum to 0: [n, n] -> [n, n], float64."""
    k = k.double()
    return k - k.mean(0, keepdim=True) - k.mean(1, keepdim=True) + k.mean()


def linear(x: Tensor) -> Tensor:
    """x x^T: [n, d] -> [n, n], float64; hsic of two is |cross-covariance|^2, its entries over
    n - 1, in the squared norm of Frobenius."""
    x = x.double()
    return x @ x.T


def gaussian(x: Tensor) -> Tensor:
    """exp(-|x_i - x_j|^2 / median), the median of squared distances between different samples:
    [n, d] -> [n, n], float64.

    The unit of x does not matter.  All ones where more than half of the distances are 0.
    """
    x = x.double()
    squares = torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist").square()
    n = len(x)
    apart = squares[torch.ones(n, n, dtype=torch.bool, device=x.device).triu(1)]
    median = float(apart.median()) if len(apart) else 0.0
    return torch.exp(-squares / median) if median > 0 else torch.ones_like(squares)


def standardized(x: Tensor) -> Tensor:
    """Every feature with mean 0 and deviation 1, those that never change with 0: [n, d]."""
    x = x.double()
    apart = x - x.mean(0)
    spread = apart.square().mean(0).sqrt()
    still = spread <= 1e-9 * x.abs().amax(0)
    return torch.where(still, 0.0, apart / torch.where(still, 1.0, spread))
