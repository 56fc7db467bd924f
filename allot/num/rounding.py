"""Rounding: which code a weight gets, given a scale and what its layer sees."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from allot.num.formats import Grid
from allot.part import Part


class Rounding(Part):
    """Turns weights into codes on a given grid."""

    @abstractmethod
    def codes(self, w: Tensor, scale: Tensor, fmt: Grid, gram: Tensor | None) -> Tensor:
        """w [out, k], scale [out] or [out, k], gram [groups, k, k] or None -> codes [out, k].

        Codes are whole numbers of the grid, as float.  Where a format has zero points, what is
        handed over is w + scale * zero: the same problem without them.
        """


def wide(scale: Tensor, w: Tensor) -> Tensor:
    """scale [out] or [out, k] for every element of w [out, k]."""
    return (scale[:, None] if scale.dim() == 1 else scale).expand_as(w)


@dataclass(frozen=True, kw_only=True)
class Nearest(Rounding):
    """Every weight to the nearest code, whatever the data."""

    def codes(self, w: Tensor, scale: Tensor, fmt: Grid, gram: Tensor | None) -> Tensor:
        return fmt.nearest(w / wide(scale, w))


@dataclass(frozen=True, kw_only=True)
class Gptq(Rounding):
    """Least layer-output error, column by column (Frantar et al. 2022, Alg. 1).

    Columns are taken by falling curvature; damp is added to the diagonal, relative to its mean.
    Without a gram it is nearest rounding.  With a gram that is a multiple of the identity the
    codes are the nearest ones.
    """

    damp: float = 0.01

    def codes(self, w: Tensor, scale: Tensor, fmt: Grid, gram: Tensor | None) -> Tensor:
        if gram is None:
            return fmt.nearest(w / wide(scale, w))
        groups, k = gram.shape[0], gram.shape[-1]
        rows, scales = (x.double().reshape(groups, -1, k) for x in (w, wide(scale, w)))
        return _columns(rows, scales, fmt, gram, self.damp).view_as(w)


def _columns(w: Tensor, scale: Tensor, fmt: Grid, gram: Tensor, damp: float) -> Tensor:
    """w, scale [g, o, k], gram [g, k, k] -> codes [g, o, k]."""
    k = gram.shape[-1]
    order = gram.diagonal(dim1=1, dim2=2).argsort(dim=1, descending=True, stable=True)
    w, scale = (x.gather(2, order[:, None, :].expand_as(x)).clone() for x in (w, scale))
    upper = inverse_factor(_permuted(gram.double(), order), damp)
    codes = torch.empty_like(w)
    for j in range(k):
        column, unit = w[:, :, j], scale[:, :, j]
        codes[:, :, j] = fmt.nearest(column / unit)
        error = (column - fmt.values(codes[:, :, j]) * unit) / upper[:, j, j][:, None]
        w[:, :, j + 1 :] -= error[:, :, None] * upper[:, None, j, j + 1 :]
    back = order.argsort(dim=1)
    return codes.gather(2, back[:, None, :].expand_as(codes)).to(torch.float32)


def _permuted(gram: Tensor, order: Tensor) -> Tensor:
    rows = gram.gather(1, order[:, :, None].expand_as(gram))
    return rows.gather(2, order[:, None, :].expand_as(gram))


def inverse_factor(gram: Tensor, damp: float) -> Tensor:
    """Upper Cholesky factor U of the damped inverse, U^T U = (gram + damp)^-1: [g, k, k].

    A column whose input is always zero gets curvature 1, so that its weight rounds to nearest.
    """
    diagonal = gram.diagonal(dim1=1, dim2=2)
    mean = diagonal.mean(1, keepdim=True).clamp(min=1e-12)
    dead = (diagonal <= 0).double() * mean
    damped = gram + torch.diag_embed(damp * mean + dead)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    return torch.linalg.cholesky(inverse, upper=True)
