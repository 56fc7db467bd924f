"""Laws of soft codes: they start and end on the grid, in any format.

Faults these laws must catch: a code beyond the ends of the grid; up and down mixed up for a
negative scale; the zero point, the gain or the low-rank part forgotten; the stand-in changed; a
start other than the codes that were given.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from allot.errors import InputError
from allot.num.formats import Format, Int, UInt
from allot.options.format_layer import FormatLayer
from allot.options.standins import OnGrid, QuantizedLayer
from allot.reconstruct.soft import FreeRounding, LearnedRounding, Soft, SoftRounding
from tests import toys
from tests.reconstruct.grids import Uneven

ROUNDINGS: tuple[LearnedRounding, ...] = (SoftRounding(), FreeRounding())


def integers(bits: int = 2) -> tuple[OnGrid, Tensor]:
    """A convolution of one scale per row, one of them negative, and its unrounded weight."""
    inner = toys.seeded(nn.Sequential(nn.Conv2d(3, 4, 3)))[0]
    assert isinstance(inner, nn.Conv2d)
    w = inner.weight.detach().clone()
    scale = w.abs().amax((1, 2, 3)) / 2 ** (bits - 1) * torch.tensor([1.0, -1.0, 0.6, 1.3])
    return QuantizedLayer(inner=inner, scale=scale, fmt=Int(bits=bits)), w


def groups(*, rank: int = 0, gain: bool = False) -> tuple[OnGrid, Tensor]:
    """A linear in groups with zero points, perhaps a low-rank part and a gain."""
    inner = toys.seeded(nn.Sequential(nn.Linear(8, 5)))[0]
    assert isinstance(inner, nn.Linear)
    w, g = inner.weight.detach().clone(), torch.Generator().manual_seed(2)
    up, down = torch.randn(5, rank, generator=g) / 4, torch.randn(rank, 8, generator=g) / 4
    layer = FormatLayer(
        inner=inner,
        format=Format(grid=UInt(bits=3), group=4, asymmetric=True),
        scale=torch.rand(5, 2, generator=g) / 4 + 0.1,
        zero=torch.randint(2, 6, (5, 2), generator=g),
        gain=torch.rand(5, generator=g) + 0.5 if gain else None,
        up=up if rank else None,
        down=down if rank else None,
    )
    return layer, w


def table() -> tuple[OnGrid, Tensor]:
    """A linear on an uneven grid, one scale for the whole matrix."""
    inner = toys.seeded(nn.Sequential(nn.Linear(8, 5)))[0]
    assert isinstance(inner, nn.Linear)
    w, scale = inner.weight.detach().clone(), torch.full((1, 1), 0.2)
    return FormatLayer(inner=inner, format=Format(grid=Uneven(), group=-1), scale=scale), w


MAKES = (integers, groups, lambda: groups(rank=2), lambda: groups(rank=1, gain=True), table)


def grid_of(layer: OnGrid) -> tuple[int, int]:
    grid = layer.encoded().format.grid
    return grid.lo, grid.hi


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_codes_start_where_they_were_and_the_stand_in_stays(
    make: object, rounding: LearnedRounding
) -> None:
    layer, w = make()  # type: ignore[operator]
    before, encoded = layer.weight.detach().clone(), layer.encoded()
    # as error-compensating rounding may have left them, also far from the weight
    far = torch.roll(w, 1, 0)
    for unrounded in (w, far, w * 0):
        soft = rounding.soft(layer, unrounded)
        assert torch.equal(encoded.codes, soft.codes())
        hard = soft.hard()
        assert type(hard) is type(layer) and torch.allclose(before, hard.weight, atol=1e-6)
        with torch.no_grad():
            soft.variable.neg_()
        soft.hard()
    assert torch.equal(before, layer.weight) and torch.equal(encoded.scale, layer.encoded().scale)


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_whatever_is_learned_codes_lie_on_the_grid(make: object, rounding: LearnedRounding) -> None:
    layer, w = make()  # type: ignore[operator]
    soft = rounding.soft(layer, w)
    lo, hi = grid_of(layer)
    g = torch.Generator().manual_seed(3)
    with torch.no_grad():
        soft.variable += 20 * torch.randn(soft.variable.shape, generator=g).sign()
    codes = soft.codes()
    assert torch.equal(codes, codes.round()) and lo <= codes.min() and codes.max() <= hi
    hard = soft.hard()
    assert torch.equal(codes, hard.encoded().codes)
    # decided values are what the hard layer computes with
    assert torch.allclose(soft.weight, hard.weight, atol=1e-5)


@pytest.mark.parametrize("make", MAKES)
def test_a_soft_weight_lies_between_neighbours_and_is_drawn_to_one(make: object) -> None:
    layer, w = make()  # type: ignore[operator]
    soft = SoftRounding().soft(layer, w)
    grid, x = layer.encoded().format.grid, soft.values().detach()
    low = grid.values(grid.below(x))
    high = grid.values(grid.below(x) + 1)
    assert bool(((low <= x + 1e-5) & (x <= high + 1e-5)).all())
    assert float(soft.undecided(0.1)) == 0 < float(soft.undecided(0.9))
    with torch.no_grad():
        soft.variable.copy_(soft.variable.sign() * 10)
    assert float(soft.undecided(0.9)) == 0
    with torch.no_grad():
        soft.variable.zero_()  # half way
    assert float(soft.undecided(0.5)) == SoftRounding().pull


def test_free_codes_move_over_the_whole_grid_and_soft_ones_to_neighbours() -> None:
    layer, w = integers(bits=4)
    codes = layer.encoded().codes
    moved = []
    for rounding in ROUNDINGS:
        soft = rounding.soft(layer, w)
        with torch.no_grad():
            soft.variable.fill_(-100)
        moved.append(codes - soft.codes())
    assert moved[0].max() == 1 < moved[1].max() and bool((codes - moved[1] == -8).all())


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_the_gradient_goes_straight_through_within_reach(rounding: LearnedRounding) -> None:
    layer, w = integers()
    soft = rounding.soft(layer, w)
    (g,) = torch.autograd.grad(soft.weight.sum(), soft.variable)
    inside = (soft.values().abs() < 1) & (soft.variable.abs() < 2)
    assert bool((g[inside] != 0).all())
    # the sign of a scale turns up and down round for values, and so does the gradient
    scale = layer.encoded().scale.expand_as(g)
    assert bool((g[inside].sign() == scale[inside].sign()).all())


@pytest.mark.parametrize("wrong", (0.0, -1.0))
def test_a_rate_is_positive(wrong: float) -> None:
    for kind in (SoftRounding, FreeRounding):
        with pytest.raises(InputError, match="rate"):
            kind(rate=wrong)
    with pytest.raises(InputError, match="warm"):
        SoftRounding(warm=1 - wrong)
    with pytest.raises(InputError, match="margin"):
        SoftRounding(margin=wrong)


def test_a_soft_layer_reads_like_the_layer() -> None:
    layer, w = integers()
    soft = SoftRounding().soft(layer, w)
    assert isinstance(soft, Soft) and soft.kernel_size == (3, 3)
    assert soft(toys.images()).shape == layer(toys.images()).shape
