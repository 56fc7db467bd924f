"""Laws of what calibration sees of ranges.

Faults these laws must catch: a state that depends on how data were cut; extremes of the wrong
axis; bins that drift when they merge; NaN counted as a number.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from allot.errors import DataError
from allot.option import Statistic
from allot.options.ranges_seen import ChannelValues, Histogram, TokenExtremes, bins
from allot.testing import _survives_a_file

STATISTICS: tuple[tuple[Statistic, tuple[int, ...]], ...] = (
    (ChannelValues(module="m", role="in", dim=1), (12, 5, 6, 7)),
    (ChannelValues(module="m", role="in", dim=-1), (12, 40, 5)),
    (ChannelValues(module="m", role="in", dim=-1), (12, 5)),
    (TokenExtremes(module="m", role="in", dim=1), (12, 5, 6, 7)),
    (TokenExtremes(module="m", role="in", dim=-1), (12, 9, 5)),
    (Histogram(module="m", role="in"), (12, 9, 5)),
)
IDS = [f"{type(s).__name__}{len(shape)}d" for s, shape in STATISTICS]


def drawn(shape: tuple[int, ...]) -> Tensor:
    """Samples of very different size, one of them all zeros."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    size = 4.0 ** torch.arange(-4.0, shape[0] - 4.0)
    size[1] = 0
    return x * size.view(-1, *([1] * (len(shape) - 1)))


def state(statistic: Statistic, x: Tensor, cuts: tuple[int, ...]) -> Tensor:
    found = None
    for part in x.split(list(cuts)):
        found = statistic.update(found, part)
    assert found is not None
    return found


@pytest.mark.parametrize(("statistic", "shape"), STATISTICS, ids=IDS)
def test_the_state_does_not_depend_on_how_the_data_were_cut(
    statistic: Statistic, shape: tuple[int, ...]
) -> None:
    x = drawn(shape)
    whole = state(statistic, x, (12,))
    for cuts in ((1,) * 12, (5, 7), (2, 9, 1)):
        assert torch.equal(whole, state(statistic, x, cuts))
    assert _survives_a_file(statistic)


def test_channels_are_ranged_along_their_dim_and_picks_are_whole_places() -> None:
    x = drawn((12, 5, 6, 7))
    got = state(ChannelValues(module="m", role="in", dim=1), x, (12,))
    assert got.shape == (12, 18, 5)
    assert torch.equal(got[:, 0], x.amin((2, 3))) and torch.equal(got[:, 1], x.amax((2, 3)))
    places = x.flatten(2).transpose(1, 2)
    for sample, picks in zip(places, got[:, 2:], strict=True):
        assert all((sample == p).all(1).any() for p in picks)


def test_few_places_are_all_picked() -> None:
    x = drawn((12, 3, 5))
    got = state(ChannelValues(module="m", role="in", dim=-1), x, (12,))
    assert torch.equal(got[:, 2:], x)


def test_a_token_is_a_row_of_the_last_dim_or_a_whole_image() -> None:
    x = drawn((12, 9, 5))
    rows = state(TokenExtremes(module="m", role="in", dim=-1), x, (12,))
    assert torch.equal(rows, torch.stack([x.amin(2).flatten(), x.amax(2).flatten()], 1))
    x = drawn((12, 5, 6, 7))
    images = state(TokenExtremes(module="m", role="in", dim=1), x, (12,))
    assert torch.equal(images, torch.stack([x.amin((1, 2, 3)), x.amax((1, 2, 3))], 1))


def test_a_histogram_counts_every_value_in_its_bin() -> None:
    x = drawn((12, 9, 5))
    centres, counts = bins(state(Histogram(module="m", role="in"), x, (3, 9)))
    width = float(centres[1] - centres[0])
    edges = torch.cat([centres - width / 2, centres[-1:] + width / 2])
    want = torch.histogram(x.flatten().double(), edges).hist
    assert torch.equal(counts, want) and float(counts.sum()) == x.numel()
    assert float(x.abs().max()) < float(edges[-1]) <= 2 * float(x.abs().max())
    assert math.log2(width) == round(math.log2(width))


def test_a_histogram_of_zeros_takes_the_bins_of_what_comes() -> None:
    zeros = Histogram(module="m", role="in").update(None, torch.zeros(3, 4))
    tiny = torch.full((3, 4), 1e-12)
    both = Histogram(module="m", role="in").update(zeros, tiny)
    alone = Histogram(module="m", role="in").update(None, tiny)
    assert both[0] == alone[0] and float(both[1:].sum()) == 24


@pytest.mark.parametrize("bad", (math.nan, math.inf))
def test_what_is_no_number_is_told_with_the_module(bad: float) -> None:
    x = drawn((12, 9, 5))
    x[3, 2, 1] = bad
    with pytest.raises(DataError, match=r"the output of block\.fc holds NaN or infinity"):
        Histogram(module="block.fc", role="out").update(None, x)
