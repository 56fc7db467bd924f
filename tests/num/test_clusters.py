"""Laws of groups of ranges: enumeration, outliers, what may be permuted.

Faults these laws must catch: an outlier that shares a group while there are groups left; a group
number without members; a start that depends on the order.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from allot.num.clusters import clustered, spread


def ranges(n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    x = torch.randn(n, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return x.amin(1), x.amax(1)


def error(low: Tensor, high: Tensor, group: Tensor) -> float:
    """Squared distance of all ranges to the means of their groups."""
    points = torch.stack([low, high], 1)
    parts = [points[group == g] for g in group.unique()]
    return sum(float((p - p.mean(0)).square().sum()) for p in parts)


def sets(group: Tensor) -> set[frozenset[int]]:
    return {frozenset((group == g).nonzero()[:, 0].tolist()) for g in group.unique()}


@pytest.mark.parametrize("seed", range(4))
def test_no_range_would_rather_be_with_another_group(seed: int) -> None:
    low, high = ranges(40, seed)
    group = clustered(low, high, 5)
    points = torch.stack([low, high], 1)
    means = torch.stack([points[group == g].mean(0) for g in range(5)])
    apart = (points[:, None] - means).square().sum(2)
    own = apart.gather(1, group[:, None])[:, 0]
    assert torch.allclose(own, apart.amin(1)) and sorted(set(group.tolist())) == list(range(5))


@pytest.mark.parametrize("count", (2, 3))
def test_groups_that_lie_apart_are_the_best_of_all_groupings(count: int) -> None:
    """By enumeration: 7 ranges about a few that lie far from each other."""
    g = torch.Generator().manual_seed(count)
    about = torch.arange(7) % count
    low = -1.0 - 20 * about + 0.5 * torch.rand(7, generator=g)
    high = 1.0 + 3 * about + 0.5 * torch.rand(7, generator=g)
    every = (torch.tensor(x) for x in itertools.product(range(count), repeat=7))
    best = min(error(low, high, x) for x in every)
    found = clustered(low, high, count)
    assert error(low, high, found) == pytest.approx(best, rel=1e-6)
    assert sets(found) == sets(about)


def test_an_outlier_is_a_group_of_its_own() -> None:
    low, high = ranges(30)
    high[7], low[19] = 50.0, -40.0
    group = clustered(low, high, 3)
    assert {frozenset({7}), frozenset({19})} < sets(group)


def test_more_groups_never_fit_worse() -> None:
    low, high = ranges(25)
    errors = [error(low, high, clustered(low, high, n)) for n in (1, 2, 4, 25)]
    assert errors == sorted(errors, reverse=True) and errors[-1] == pytest.approx(0, abs=1e-12)


def test_the_order_of_ranges_does_not_matter() -> None:
    low, high = ranges(30)
    order = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    want = sets(clustered(low, high, 4))
    moved = sets(clustered(low[order], high[order], 4))
    assert {frozenset(order[list(s)].tolist()) for s in moved} == want


@pytest.mark.parametrize("count", (1, 3, 9))
def test_equal_ranges_are_one_group_however_many_are_asked_for(count: int) -> None:
    low, high = torch.full((6,), -1.0), torch.full((6,), 2.0)
    assert not clustered(low, high, count).any()
    high[2] = 3.0
    assert len(sets(clustered(low, high, count))) == min(count, 2)


def test_the_spread_is_what_both_ends_span() -> None:
    low, high = torch.tensor([-1.0, -3.0]), torch.tensor([2.0, 7.0])
    assert spread(low, high) == 2 + 5 and spread(low[:1], high[:1]) == 0
