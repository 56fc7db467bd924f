"""Laws of ghosts: shapes are those of real tensors, and nothing made of one has values.

Faults these laws must catch: a remembered shape of other arguments; a result shared by two.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from allot.ghost import Ghost, Memory, ghost

CPU = torch.device("cpu")
OPS: tuple[Callable[[Tensor], Tensor], ...] = (
    functional.relu,
    lambda x: x + x,
    lambda x: x.view(x.size(0), -1),
    lambda x: x[:, ::2],
    lambda x: x[:, :3],
    lambda x: x.mean((2, 3)),
    lambda x: x.mean((2, 3), keepdim=True),
    lambda x: torch.cat([x, x], 1),
    lambda x: x.permute(0, 2, 3, 1).softmax(-1),
    lambda x: functional.pad(x, (1, 1)),
    lambda x: x.chunk(2, 1)[1],
    lambda x: x * 2.5,
)


@pytest.mark.parametrize("op", OPS)
def test_shapes_are_those_of_real_tensors_each_time(op: Callable[[Tensor], Tensor]) -> None:
    memory: Memory = {}
    for shape in ((2, 4, 6, 6), (3, 4, 6, 6), (2, 4, 6, 6)):
        want, got = op(torch.zeros(shape)), op(ghost(torch.Size(shape), torch.float32, memory, CPU))
        assert isinstance(got, Ghost) and got.is_meta
        assert got.shape == want.shape and got.stride() == want.stride()
        assert got.dtype == want.dtype


def test_a_change_of_shape_in_place_touches_nothing_remembered() -> None:
    memory: Memory = {}
    for _ in range(2):
        x = ghost(torch.Size((2, 3)), torch.float32, memory, CPU)
        y = torch.relu(x)
        y.unsqueeze_(0)
        y += 1
        assert tuple(y.shape) == (1, 2, 3) and tuple(x.shape) == (2, 3)


def test_values_are_refused() -> None:
    x = ghost(torch.Size((2,)), torch.float32, {}, CPU)
    with pytest.raises((RuntimeError, NotImplementedError)):
        x.sum().item()
    with pytest.raises(RuntimeError):
        torch.cat([x, torch.zeros(2)]).sum().item()


def test_it_says_it_is_at_home_and_what_is_made_there_is_real() -> None:
    x = ghost(torch.Size((2, 3)), torch.float32, {}, CPU)
    assert x.device == CPU and (x + 1).device == CPU
    real = torch.arange(3, device=x.device)
    assert not real.is_meta and real.tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    "op",
    (
        lambda x: x.to(x.device),
        lambda x: x.to(device=x.device, dtype=torch.float64),
        lambda x: x.new_zeros(4, device=x.device),
        lambda x: torch.zeros_like(x, device=x.device),
    ),
)
def test_what_goes_or_is_made_where_it_is_has_no_values_either(
    op: Callable[[Tensor], Tensor],
) -> None:
    got, want = op(ghost(torch.Size((2, 3)), torch.float32, {}, CPU)), op(torch.zeros(2, 3))
    assert isinstance(got, Ghost) and got.is_meta
    assert got.shape == want.shape and got.dtype == want.dtype
