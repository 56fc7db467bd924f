"""Low rank: the best product of two thin matrices for a matrix, or for an error on some inputs."""

from __future__ import annotations

import torch
from torch import Tensor

from allot.errors import InputError
from allot.num.channels import DAMP, damped


def truncated(w: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """up [out, rank], down [rank, k] with least |w - up down|^2 for w [out, k] (Eckart and Young
    1936), singular values shared evenly between them, float64.

    Raises InputError for a rank above what the matrix can have.
    """
    most = min(w.shape)
    if not 0 <= rank <= most:
        raise InputError(
            f"a matrix of {w.shape[0]} x {w.shape[1]} has no part of rank {rank}; 0 to {most} fit"
        )
    u, s, v = torch.linalg.svd(w.double(), full_matrices=False)
    root = s[:rank].sqrt()
    return u[:, :rank] * root, root[:, None] * v[:rank]


def compensation(
    w: Tensor, q: Tensor, rank: int, *, gram: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """up [out, rank], down [rank, k] for the error of q [out, k], rounded to half precision.

    Without a gram the best for w - q itself (LoRC, Yao et al. 2023); with the gram [k, k] of the
    inputs the one of least output error tr E G E^T of E = w - q - up down, which is the best for
    (w - q) G^1/2.  float32.
    """
    error = (w - q).double()
    if gram is None:
        up, down = truncated(error, rank)
    else:
        root, inverse = _roots(gram)
        up, down = truncated(error @ root, rank)
        down = down @ inverse
    return half(up), half(down)


def half(x: Tensor) -> Tensor:
    """x as half precision holds it, float32."""
    return x.to(torch.float16).float()


def _roots(gram: Tensor) -> tuple[Tensor, Tensor]:
    """The root of a damped second moment [k, k] and its inverse."""
    values, vectors = torch.linalg.eigh(damped(gram, DAMP))
    root = values.clamp(min=1e-30).sqrt()
    return vectors * root @ vectors.T, vectors / root @ vectors.T
