"""Laws of low rank.

Faults these must catch: singular values on one side only, a rank off by one, the gram left out or
put on the wrong side, factors that half precision cannot hold.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from allot.errors import InputError
from allot.num.lowrank import compensation, half, truncated


def matrix(rows: int, k: int, seed: int = 0) -> Tensor:
    return torch.randn(rows, k, generator=torch.Generator().manual_seed(seed))


def gram(k: int, seed: int = 1) -> Tensor:
    """Of inputs whose channels differ in size by a hundred."""
    x = matrix(4 * k, k, seed) * torch.logspace(-1, 1, k)
    return (x.T @ x).double()


def output_error(e: Tensor, g: Tensor) -> float:
    e = e.double()
    return float((e @ g @ e.T).trace())


@pytest.mark.parametrize("shape", [(5, 9), (9, 5), (6, 6)])
@pytest.mark.parametrize("rank", [0, 1, 3, 5])
def test_what_is_left_are_the_smaller_singular_values(shape: tuple[int, int], rank: int) -> None:
    w = matrix(*shape)
    up, down = truncated(w, rank)
    assert up.shape == (shape[0], rank) and down.shape == (rank, shape[1])
    left = float((w.double() - up @ down).square().sum())
    values = torch.linalg.svdvals(w.double())
    assert abs(left - float(values[rank:].square().sum())) < 1e-9


def test_no_other_factors_of_that_rank_do_better() -> None:
    w = matrix(6, 8)
    up, down = truncated(w, 2)
    least = (w.double() - up @ down).square().sum()
    for seed in range(20):
        a, b = (matrix(*f.shape, seed).double() * 0.05 for f in (up, down))
        assert (w.double() - (up + a) @ (down + b)).square().sum() >= least


def test_both_factors_carry_the_same_share() -> None:
    up, down = truncated(matrix(6, 8), 3)
    assert torch.allclose(up.norm(dim=0), down.norm(dim=1))


@pytest.mark.parametrize("weighted", [False, True])
def test_the_error_falls_with_the_rank_down_to_what_half_precision_leaves(weighted: bool) -> None:
    w, g = matrix(6, 8), gram(8)
    q = w + 0.1 * matrix(6, 8, seed=2)
    errors = []
    for rank in range(7):
        up, down = compensation(w, q, rank, gram=g if weighted else None)
        e = w - q - up @ down
        errors.append(output_error(e, g) if weighted else float(e.square().sum()))
    assert all(b < a for a, b in itertools.pairwise(errors))
    assert errors[-1] < 1e-4 * errors[0]


@pytest.mark.parametrize("rank", [1, 2, 4])
def test_with_a_gram_the_output_error_is_the_least_there_is(rank: int) -> None:
    w, g = matrix(6, 8), gram(8)
    q = w + 0.1 * matrix(6, 8, seed=2)
    plain = compensation(w, q, rank)
    aware = compensation(w, q, rank, gram=g)
    found, other = (output_error(w - q - up @ down, g) for up, down in (aware, plain))
    values, vectors = torch.linalg.eigh(g)
    root = vectors * values.clamp(min=0).sqrt() @ vectors.T
    bound = float(torch.linalg.svdvals((w - q).double() @ root)[rank:].square().sum())
    assert bound * (1 - 1e-9) <= found <= bound * 1.05 and found < other


def test_inputs_that_never_occur_do_no_harm() -> None:
    w, q = matrix(6, 8), matrix(6, 8, seed=2)
    x = matrix(3, 8)
    g = (x.T @ x).double()
    up, down = compensation(w, q, 3, gram=g)
    assert bool(up.isfinite().all() and down.isfinite().all())
    # three directions of inputs: rank three undoes the whole output error, up to the damping
    assert output_error(w - q - up @ down, g) < 0.01 * output_error(w - q, g)


def test_factors_are_what_half_precision_holds() -> None:
    up, down = compensation(matrix(6, 8), matrix(6, 8, seed=2), 2)
    for f in (up, down):
        assert f.dtype is torch.float32 and torch.equal(f.half().float(), f)
        assert torch.equal(half(f), f)


@pytest.mark.parametrize("rank", [6, -1])
def test_a_rank_above_the_matrix_s_is_refused_with_both_named(rank: int) -> None:
    with pytest.raises(InputError, match=rf"5 x 9 has no part of rank {rank}; 0 to 5"):
        truncated(matrix(5, 9), rank)
    with pytest.raises(InputError):
        compensation(matrix(5, 9), matrix(5, 9), rank)
