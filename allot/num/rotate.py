"""Rotate: orthogonal matrices that spread what is large in one channel over all of them."""

from __future__ import annotations

import torch
from torch import Tensor


def power_of_two(size: int) -> int:
    """The largest power of two that divides a size."""
    return size & -size


def hadamard(size: int) -> Tensor:
    """Sylvester's matrix over sqrt(size), symmetric and orthogonal: [size, size] in float64.

    size: a power of two.
    """
    h = torch.ones(1, 1, dtype=torch.float64)
    while len(h) < size:
        h = torch.cat([torch.cat([h, h], 1), torch.cat([h, -h], 1)]) / 2**0.5
    return h


def signs(size: int, *, seed: int) -> Tensor:
    """1 or -1 at random [size], float64."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 2, (size,), generator=generator).double() * 2 - 1


def orthogonal(size: int, *, seed: int) -> Tensor:
    """A random orthogonal matrix of uniform distribution, [size, size] in float64."""
    generator = torch.Generator().manual_seed(seed)
    q, r = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))
    return q * r.diagonal().sign()


def random_hadamard(size: int, *, seed: int) -> Tensor:
    """Random signs times a Hadamard matrix [size, size] (Ashkboos et al. 2024), in float64.

    For a size m * 2^a, m odd, a random orthogonal m x m matrix takes the place of the Hadamard
    matrix of m, which need not exist: Q_m ⊗ H.  The paper knows tables of such matrices for some m.
    """
    block = power_of_two(size)
    h = hadamard(block)
    if block < size:
        h = torch.kron(orthogonal(size // block, seed=seed).contiguous(), h)
    return signs(size, seed=seed)[:, None] * h


def transform(x: Tensor, block: int) -> Tensor:
    """x [..., k] with every `block` neighbours times hadamard(block): like x, k log2(block) sums.

    block: a power of two that divides k.
    """
    y, step = x.reshape(*x.shape[:-1], -1, block), 1
    while step < block:
        pairs = y.reshape(*y.shape[:-1], -1, 2, step)
        a, b = pairs[..., 0, :], pairs[..., 1, :]
        y = torch.stack([a + b, a - b], -2).reshape(y.shape)
        step *= 2
    return (y / block**0.5).reshape(x.shape)
