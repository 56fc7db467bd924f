"""Gram: the second moment of what a convolution or linear multiplies its weight with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

# elements of unfolded input held at once
_CHUNK = 1 << 20


def rows_moment(x: Tensor) -> Tensor:
    """Sum of x x^T over all leading dims: x [..., k] -> [1, k, k] in float64."""
    rows = x.detach().reshape(-1, x.shape[-1])
    total = rows.new_zeros((rows.shape[1], rows.shape[1])).double()
    for part in rows.split(max(1, _CHUNK // rows.shape[1])):
        wide = part.double()
        total += wide.T @ wide
    return total[None]


def patches_moment(
    x: Tensor,
    *,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    padding: tuple[int, ...],
    dilation: tuple[int, ...],
    groups: int,
    places: int = 0,
) -> Tensor:
    """Sum over samples and places of p p^T of the patches p that a convolution sees.

    x [n, c, h, w] -> [groups, k, k] in float64, k = c / groups * kh * kw in the order of
    weight.reshape(out, -1).  places: how many output places are looked at, the same evenly
    scattered ones in every sample; 0 for all.  Sums are in float64, so how samples are batched
    changes the last digits only.
    """
    k = x.shape[1] // groups * kernel[0] * kernel[1]
    total = x.new_zeros((groups, k, k)).double()
    padded = functional.pad(x.detach(), (padding[1], padding[1], padding[0], padding[0]))
    rows, columns = _taps(padded, kernel, stride, dilation, places)
    for part in padded.split(max(1, _CHUNK // (k * groups * len(rows)))):
        seen = part[:, :, rows, columns]  # [n, c, places, kh * kw]
        seen = seen.reshape(len(part), groups, -1, len(rows), rows.shape[1]).transpose(2, 3)
        wide = seen.transpose(0, 1).reshape(groups, len(part) * len(rows), k).double()
        total += wide.transpose(1, 2) @ wide
    return total


def _taps(
    padded: Tensor,
    kernel: tuple[int, ...],
    stride: tuple[int, ...],
    dilation: tuple[int, ...],
    places: int,
) -> tuple[Tensor, Tensor]:
    """Row and column in the padded input of every tap at every place looked at: [places, taps]."""
    high, wide = (
        (padded.shape[2 + d] - dilation[d] * (kernel[d] - 1) - 1) // stride[d] + 1 for d in (0, 1)
    )
    every = torch.arange(high * wide)
    if 0 < places < len(every):
        scattered = torch.randperm(len(every), generator=torch.Generator().manual_seed(0))
        every = every[scattered[:places].sort().values]
    tap = torch.arange(kernel[0] * kernel[1])
    rows = (every // wide * stride[0])[:, None] + (tap // kernel[1] * dilation[0])[None]
    columns = (every % wide * stride[1])[:, None] + (tap % kernel[1] * dilation[1])[None]
    return rows, columns


def curvature(rows: Tensor, gram: Tensor | None) -> Tensor | None:
    """How much an error in each weight counts: diagonal of the gram [g, k, k] for every row of
    rows [out, k], like rows; None without a gram."""
    if gram is None:
        return None
    diagonal = gram.diagonal(dim1=1, dim2=2).to(rows)
    return diagonal.repeat_interleave(rows.shape[0] // diagonal.shape[0], dim=0) + 1e-12
