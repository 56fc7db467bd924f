"""Quadratic: the squared output error of a row's codes, which roundings bring down."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from allot.num.formats import Grid
from allot.num.rounding import wide


@dataclass(frozen=True, kw_only=True, eq=False)
class Rows:
    """Weights and scales [g, o, k] and grams [g, k, k] of a layer's groups, in float64.

    The error of a row of codes is d G d^T with d = w - scale * value: the squared error at the
    layer's output, summed over the inputs whose gram G is.  Nothing but G is needed to know it.
    """

    w: Tensor
    scale: Tensor
    gram: Tensor
    grid: Grid

    def residual(self, codes: Tensor) -> Tensor:
        """w less what the codes stand for: [g, o, k]."""
        return self.w - self.grid.values(codes) * self.scale

    def error(self, codes: Tensor) -> Tensor:
        """Squared output error of every row: codes [g, o, k] -> [g, o]."""
        d = self.residual(codes)
        return ((d @ self.gram) * d).sum(2)

    def better(self, codes: Tensor, new: Tensor) -> Tensor:
        """Row by row whichever has the lower error; `codes` where both are alike: [g, o, k]."""
        return torch.where((self.error(new) < self.error(codes))[:, :, None], new, codes)


def grouped(w: Tensor, scale: Tensor, grid: Grid, gram: Tensor, *, damp: float = 0.0) -> Rows:
    """w [out, k], scale [out] or [out, k], gram [groups, k, k] -> the rows of every group.

    damp: added to the diagonal of the gram, relative to its mean: the error on inputs with that
    much white noise, so that few samples do not move codes far for little (as in Gptq).
    """
    groups, k = gram.shape[0], gram.shape[-1]
    rows, scales = (x.double().reshape(groups, -1, k) for x in (w, wide(scale, w)))
    wide_gram = gram.double()
    mean = wide_gram.diagonal(dim1=1, dim2=2).mean(1, keepdim=True)
    noise = torch.diag_embed((damp * mean).expand(groups, k))
    return Rows(w=rows, scale=scales, gram=wide_gram + noise, grid=grid)
