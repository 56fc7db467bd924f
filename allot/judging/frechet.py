"""Frechet distance: how far two clouds of features are apart, as Gaussians of their moments."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from allot.errors import DataError

# added to variances as a share of their mean, and where there is none
RIDGE, LEAST = 1e-6, 1e-30


@dataclass(frozen=True, kw_only=True, eq=False)
class Moments:
    """Mean [..., d] and covariance [..., d, d] of features; leading axes are many clouds."""

    mean: Tensor
    covariance: Tensor

    @cached_property
    def root(self) -> Tensor:
        """Symmetric root of the covariance [..., d, d]; eigenvalues below zero are rounding and
        count as zero."""
        values, vectors = torch.linalg.eigh(self.covariance)
        return (vectors * values.clamp(min=0).sqrt()[..., None, :]) @ vectors.mT


def moments(features: Tensor) -> Moments:
    """Mean and covariance (divided by n - 1) of features [n, d], in float64.

    Raises DataError for fewer than two samples or values that are not finite.
    """
    if features.dim() != 2 or len(features) < 2 or not bool(features.isfinite().all()):
        raise DataError(
            f"moments need finite features [n, d] of at least two samples, not "
            f"{list(features.shape)}{'' if features.isfinite().all() else ' with NaN or infinity'}"
        )
    x = features.double()
    mean = x.mean(0)
    apart = x - mean
    return Moments(mean=mean, covariance=apart.T @ apart / (len(x) - 1))


def reweighted(features: Tensor, counts: Tensor) -> Moments:
    """Moments of resampled features: [n, d], how often each is drawn [r, n] -> r clouds.

    From products that are made once: r n d^2 / 2 multiplications, n d^2 / 2 numbers kept.
    """
    x = features.double()
    centre = x.mean(0)
    x = x - centre
    n, d = x.shape
    i, j = torch.triu_indices(d, d, device=x.device)
    mean = counts @ x / n
    upper = counts @ (x[:, i] * x[:, j]) / n
    second = x.new_empty(len(counts), d, d)
    second[:, i, j], second[:, j, i] = upper, upper
    covariance = (second - mean[:, :, None] * mean[:, None, :]) * (n / (n - 1))
    return Moments(mean=mean + centre, covariance=covariance)


def distance(a: Moments, b: Moments) -> Tensor:
    """|mean_a - mean_b|^2 + tr(A + B - 2 (A B)^(1/2)) of clouds [..., d] -> [...].

    Dowson and Landau 1982; of image features: Heusel et al. 2017.  The root's trace is the sum of
    the singular values of A^(1/2) B^(1/2), both roots from symmetric eigenvectors: the general
    matrix root that is customary gives up on singular covariances.
    """
    apart = (a.mean - b.mean).pow(2).sum(-1)
    traces = _trace(a.covariance) + _trace(b.covariance)
    shared = torch.linalg.svdvals(a.root @ b.root).sum(-1)
    return (apart + traces - 2 * shared).clamp(min=0)


def transport(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """T and its inverse with T A T = B, T symmetric: positive definite [d, d], [d, d] -> two.

    The linear map that moves one Gaussian onto the other at least cost (Olkin and Pukelsheim
    1982); I - T and I - T^-1 are the derivatives of the distance by A and by B.
    """
    values, vectors = torch.linalg.eigh(a)
    there = (vectors * values.sqrt()) @ vectors.T
    back = (vectors / values.sqrt()) @ vectors.T
    middle, turned = torch.linalg.eigh(there @ b @ there)
    # cannot be smaller than what rounding of the largest leaves
    middle = middle.clamp(min=float(middle[-1]) * torch.finfo(a.dtype).eps).sqrt()
    return back @ (turned * middle) @ turned.T @ back, there @ (turned / middle) @ turned.T @ there


def slopes(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor, float]:
    """I - T, I - T^-1 of `transport` [d, d] of a and b plus a ridge, and the ridge.

    The ridge is RIDGE of the mean variance: covariances of fewer samples than features, and of
    features that are dead, have no inverse root.
    """
    d = len(a)
    ridge = RIDGE * float(a.trace() + b.trace()) / (2 * d) + LEAST
    eye = torch.eye(d, dtype=a.dtype, device=a.device)
    there, back = transport(a + ridge * eye, b + ridge * eye)
    return eye - there, eye - back, ridge


def changes(reference: Moments, features: Tensor) -> Tensor:
    """First-order change of the distance to a fixed cloud with each sample's weight: [n, d] -> [n].

    Their deviation over sqrt(n) is the distance's standard error; their mean says nothing.
    """
    mine = moments(features)
    y = features.double() - mine.mean
    _, back, _ = slopes(reference.covariance, mine.covariance)
    return 2 * y @ (mine.mean - reference.mean) + ((y @ back) * y).sum(1)


def _trace(x: Tensor) -> Tensor:
    return x.diagonal(dim1=-2, dim2=-1).sum(-1)
