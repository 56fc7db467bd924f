"""Kernel distance: an unbiased estimate of how far two sets of features are apart, in blocks."""

from __future__ import annotations

import torch
from torch import Tensor

from allot.errors import DataError

BLOCKS = 16


def blocks(a: Tensor, b: Tensor, *, count: int = BLOCKS) -> Tensor:
    """Squared kernel distance of each of `count` blocks: [n, d], [n, d] -> [count], float64.

    Kernel (x.y / d + 1)^3 (Binkowski et al. 2018), whose published estimate averages overlapping
    random subsets; these blocks share no sample, so that their spread tells the mean's error.  Of
    every pair i != j the term k(a_i, a_j) + k(b_i, b_j) - k(a_i, b_j) - k(a_j, b_i) is taken
    (Gretton et al. 2012, lemma 6): unbiased for independent sets, and for sets of the same noises
    too, where a_i belongs to b_i.  A remainder of n / count is left out.  Raises DataError for sets
    of different shapes and for blocks of fewer than two samples.
    """
    size = len(a) // count
    if a.shape != b.shape or a.dim() != 2 or size < 2:
        raise DataError(
            f"{count} blocks need two sets of features [n, d] of one size, n at least {2 * count}; "
            f"{list(a.shape)} and {list(b.shape)} were given"
        )
    x = a[: size * count].double().view(count, size, -1)
    y = b[: size * count].double().view(count, size, -1)
    crossed = _kernel(x, y)
    terms = _kernel(x, x) + _kernel(y, y) - crossed - crossed.mT
    own = terms.diagonal(dim1=1, dim2=2).sum(1)
    return (terms.sum((1, 2)) - own) / (size * (size - 1))


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    """[b, n, d], [b, m, d] -> [b, n, m]."""
    return torch.pow(x @ y.mT / x.shape[-1] + 1, 3)
