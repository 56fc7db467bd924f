"""Laws of the quadratic: it is the layer's squared output error, and damping is white noise."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from allot.num.formats import Int
from allot.num.quadratic import grouped


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_error_is_that_of_the_layers_output() -> None:
    w, x, scale = drawn(6, 5, seed=0), drawn(2, 40, 5, seed=1), drawn(6, 5, seed=2)
    codes = Int(bits=4).nearest(w / scale)
    q = codes * scale
    rows = grouped(w, scale, Int(bits=4), x.transpose(1, 2) @ x)
    lost = (x @ (w - q).view(2, 3, 5).transpose(1, 2)).square().sum(1)
    assert torch.allclose(lost, rows.error(codes.view(2, 3, 5)), rtol=1e-12)


@pytest.mark.parametrize("damp", (0.0, 0.01, 3.0))
def test_damping_is_white_noise_in_the_inputs(damp: float) -> None:
    w, x = drawn(3, 5, seed=3), drawn(1, 40, 5, seed=4)
    gram = x.transpose(1, 2) @ x
    codes = torch.zeros(1, 3, 5, dtype=torch.float64)
    power = damp * float(x.square().sum()) / 5
    plain, damped = (
        grouped(w, w.new_ones(3), Int(bits=4), gram, damp=d).error(codes) for d in (0.0, damp)
    )
    assert torch.allclose(plain + power * w.square().sum(1), damped, rtol=1e-12)


def test_the_better_row_is_taken_and_the_first_where_both_are_alike() -> None:
    w, gram = drawn(1, 2, seed=5).expand(4, 2), torch.eye(2, dtype=torch.float64)[None]
    rows = grouped(w, w.new_ones(4), Int(bits=4), gram)
    near = w.round()[None]
    one, other = near.clone(), near.clone()
    one[0, 0, 0] += 1
    other[0, 1, 0] -= 1
    got = rows.better(one, other)
    assert torch.equal(near[0, 0], got[0, 0]) and torch.equal(near[0, 1], got[0, 1])
    # the mirrored code is as far away
    twin = grouped(w.round() + 0.5, w.new_ones(4), Int(bits=4), gram)
    assert torch.equal(near, twin.better(near, near + 1))
