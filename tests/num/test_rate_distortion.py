"""Laws of rated codes: price nothing and it is GPTQ, price more and bits fall, and less is lost.

Faults these must catch: a price with the wrong sign or unit; a code off the grid; error not made up
for by later columns; rows weighed wrongly; order of columns not undone.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from allot.num.formats import Int
from allot.num.histogram import entropy_bits
from allot.num.rate_distortion import rated_codes, rated_scale
from allot.num.rounding import Gptq
from allot.num.scales import row_scale

GRID = Int(bits=5)
PRICES = (0.0, 0.003, 0.02, 0.2)


def problem(groups: int = 1) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """w [out, k], scale [out], gram [groups, k, k] of correlated inputs, harm [out]."""
    g = torch.Generator().manual_seed(0)
    w = torch.randn(12, 24, generator=g)
    x = torch.randn(groups, 200, 24, generator=g, dtype=torch.float64)
    x = x + 0.8 * x.roll(1, 2) * torch.linspace(0.2, 2, 24)
    gram = x.transpose(1, 2) @ x / 200
    return w, row_scale(w, GRID), gram, torch.rand(12, generator=g) + 0.1


def lost(w: Tensor, codes: Tensor, scale: Tensor, gram: Tensor, harm: Tensor) -> float:
    groups = len(gram)
    error = (w - codes * scale[:, None]).double().reshape(groups, -1, w.shape[1])
    each = ((error @ gram) * error).sum(2).flatten()
    return float((harm.double() * each).sum())


def bits(codes: Tensor) -> float:
    return entropy_bits(np.unique(codes.numpy(), return_counts=True)[1])


@pytest.mark.parametrize("groups", [1, 3])
def test_without_a_price_it_is_gptq(groups: int) -> None:
    w, scale, gram, harm = problem(groups)
    found = rated_codes(w, scale, GRID, gram, harm=harm, price=0.0)
    assert torch.equal(found, Gptq().codes(w, scale, GRID, gram))


def test_codes_are_on_the_grid_and_inputs_stay_as_they_are() -> None:
    w, scale, gram, harm = problem()
    before = [x.clone() for x in (w, scale, gram, harm)]
    for price in PRICES:
        found = rated_codes(3 * w, scale, GRID, gram, harm=harm, price=price)
        assert torch.equal(found, found.round())
        assert GRID.lo <= found.min() and found.max() <= GRID.hi
    assert all(torch.equal(a, b) for a, b in zip(before, (w, scale, gram, harm), strict=True))


def test_a_higher_price_takes_fewer_bits_and_loses_more() -> None:
    w, scale, gram, harm = problem()
    found = [rated_codes(w, scale, GRID, gram, harm=harm, price=p) for p in PRICES]
    took = [bits(c) for c in found]
    losses = [lost(w, c, scale, gram, harm) for c in found]
    assert took == sorted(took, reverse=True) and took[-1] < 0.7 * took[0]
    assert losses == sorted(losses)


@pytest.mark.parametrize("price", PRICES[2:])
def test_what_it_makes_small_is_smaller_than_without_the_price(price: float) -> None:
    w, scale, gram, harm = problem()
    whole = []
    for p in (0.0, price):
        codes = rated_codes(w, scale, GRID, gram, harm=harm, price=p)
        whole.append(lost(w, codes, scale, gram, harm) + price * bits(codes))
    assert whole[1] < whole[0]


def test_an_endless_price_leaves_one_code() -> None:
    w, scale, gram, harm = problem()
    codes = rated_codes(w, scale, GRID, gram, harm=harm, price=1e9)
    assert len(codes.unique()) == 1


def test_rows_that_matter_less_give_their_bits_away() -> None:
    w, scale, gram, _ = problem()
    harm = torch.tensor([1.0] * 6 + [0.01] * 6)
    codes = rated_codes(w, scale, GRID, gram, harm=harm, price=0.02)
    assert bits(codes[6:]) < 0.8 * bits(codes[:6])


def test_units_of_harm_and_price_are_the_same() -> None:
    w, scale, gram, harm = problem()
    one = rated_codes(w, scale, GRID, gram, harm=harm, price=0.02)
    other = rated_codes(w, scale, GRID, gram, harm=4 * harm, price=0.08)
    assert torch.equal(one, other)
    assert torch.allclose(
        rated_scale(gram, harm=harm, price=0.02), rated_scale(4 * gram, harm=harm, price=0.08)
    )


def test_the_scale_is_where_a_bit_is_worth_its_price() -> None:
    """Half the step takes a bit more of each weight; around the scale the sum is least."""
    g = torch.Generator().manual_seed(0)
    w = torch.randn(8, 400, generator=g)
    gram, harm, price = torch.eye(400, dtype=torch.float64)[None], torch.ones(8), 1e-3
    scale = rated_scale(gram, harm=harm, price=price).float()
    wide = Int(bits=8)
    sums = []
    for factor in (0.5, 1.0, 2.0):
        codes = rated_codes(w, factor * scale, wide, gram, harm=harm, price=price)
        sums.append(lost(w, codes, factor * scale, gram, harm) + price * bits(codes))
    assert sums[1] < sums[0] and sums[1] < sums[2]
    assert torch.allclose(rated_scale(gram, harm=harm, price=4 * price), 2 * scale.double())
