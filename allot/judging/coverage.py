"""Coverage: whether every kind of sample is still made, by classes and by nearest neighbours."""

from __future__ import annotations

import torch
from torch import Tensor

from allot.errors import DataError

NEIGHBOURS = 5


def shares(logits: Tensor) -> Tensor:
    """1 in the column of the class that each sample looks like: [n, classes] -> the same shape."""
    hot = torch.zeros(logits.shape, dtype=torch.float64, device=logits.device)
    return hot.scatter_(1, logits.argmax(1, keepdim=True), 1.0)


def histogram_distance(a: Tensor, b: Tensor) -> Tensor:
    """Half the summed difference of class shares, 0 .. 1: [..., classes] twice -> [...]."""
    return 0.5 * (a - b).abs().sum(-1)


def covered(reference: Tensor, features: Tensor, *, k: int = NEIGHBOURS) -> Tensor:
    """1 where any of the features lies nearer than the k-th neighbour among the reference.

    [n, d], [m, d] -> [n]; the mean is the coverage of Naeem et al. 2020.  A mode of the reference
    that is made no more counts as not covered; outliers among the features gain nothing.
    """
    return (torch.cdist(reference, features).amin(1) <= _radius(reference, k)).double()


def recalled(reference: Tensor, features: Tensor, *, k: int = NEIGHBOURS) -> Tensor:
    """1 where a reference lies within the k-th neighbour's distance of any of the features.

    [n, d], [m, d] -> [n]; the mean is the recall of Kynkaanniemi et al. 2019, and with both
    arguments exchanged their precision.
    """
    near = torch.cdist(reference, features) <= _radius(features, k)[None, :]
    return near.any(1).double()


def _radius(features: Tensor, k: int) -> Tensor:
    """Distance of each to its k-th nearest other: [n, d] -> [n]."""
    if not 1 <= k < len(features):
        raise DataError(f"the {k}-th neighbour needs more than {k} samples, not {len(features)}")
    # the distance to itself is 0 and the smallest, whatever rounding leaves of it
    apart = torch.cdist(features, features).fill_diagonal_(0.0)
    return apart.kthvalue(k + 1, dim=1).values
