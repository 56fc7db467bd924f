"""Laws of selection: all of n is all, far apart, dense, and no duplicate before what is distinct.

Faults these laws must catch: a sample chosen twice; a distance to the last chosen one alone; the
density's exponent turned round; places averaged with channels; a network left changed.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import pytest
import torch
from torch import Tensor, nn

from allot.errors import DataError, InputError
from allot.selection import cover, density, features, pooled, selected, spread
from allot.task import Data, Task
from tests import small, toys

CHOOSERS = (spread, cover)


def points(n: int = 12, d: int = 3, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, d, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("choose", CHOOSERS)
def test_n_of_n_is_all_and_fewer_are_the_first_of_more(choose: Callable[..., Tensor]) -> None:
    x = points()
    order = choose(x, len(x)).tolist()
    assert sorted(order) == list(range(len(x)))
    for k in range(1, len(x)):
        assert choose(x, k).tolist() == order[:k]


@pytest.mark.parametrize("choose", CHOOSERS)
def test_the_order_moves_with_the_samples(choose: Callable[..., Tensor]) -> None:
    x = points()
    for seed in range(5):
        moved = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
        assert torch.equal(moved[choose(x[moved], 6)], choose(x, 6))


@pytest.mark.parametrize("choose", CHOOSERS)
def test_scale_and_place_of_the_features_change_nothing(choose: Callable[..., Tensor]) -> None:
    x = points()
    assert torch.equal(choose(8 * x, 7), choose(x, 7))
    assert torch.equal(choose(x + 1, 7), choose(x, 7))


@pytest.mark.parametrize("choose", CHOOSERS)
@pytest.mark.parametrize("seed", range(3))
def test_no_duplicate_comes_before_every_distinct_sample(
    choose: Callable[..., Tensor], seed: int
) -> None:
    x = points(10, seed=seed)
    copies = x[torch.randint(10, (30,), generator=torch.Generator().manual_seed(seed))]
    twice = torch.cat([x, copies])
    chosen = choose(twice, 10)
    assert len(twice[chosen].unique(dim=0)) == 10
    assert sorted(choose(twice, 40).tolist()) == list(range(40))


def test_the_farthest_are_within_twice_the_least_radius() -> None:
    for seed in range(5):
        x = points(9, 2, seed)
        away = torch.cdist(x, x)
        for k in (2, 3):
            best = min(
                float(away[list(some)].min(0).values.max()) for some in combinations(range(9), k)
            )
            reached = float(away[spread(x, k, weight=0)].min(0).values.max())
            assert reached <= 2 * best + 1e-12


def test_what_is_covered_is_near_the_most() -> None:
    for seed in range(5):
        x = points(9, 2, seed)
        away = torch.cdist(x, x)
        alike = (-0.5 * (away / away.median()).square()).exp()
        for k in (1, 2, 3):
            best = max(
                float(alike[list(some)].max(0).values.sum()) for some in combinations(range(9), k)
            )
            reached = float(alike[cover(x, k)].max(0).values.sum())
            assert (1 - 1 / 2.718281828) * best <= reached <= best + 1e-9


def test_the_dense_are_preferred_and_the_lone_are_not() -> None:
    heap = points(40) * 0.1
    lone = torch.tensor([[50.0, 0, 0]], dtype=torch.float64)
    x = torch.cat([heap, lone])
    dense = density(x)
    assert int(dense.argmin()) == 40 and bool(((dense > 0) & (dense <= 1)).all())
    assert 40 not in spread(x, 1).tolist()
    assert 40 in spread(x, 2, weight=0).tolist()
    assert 40 not in spread(x, 5, weight=50).tolist()


def test_density_is_the_same_however_samples_are_ordered() -> None:
    x = points(30)
    moved = torch.randperm(30, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(density(x[moved]), density(x)[moved])
    assert density(points(1)).tolist() == [1.0]


def test_clusters_are_all_met() -> None:
    middles = torch.eye(5, dtype=torch.float64) * 20
    x = torch.cat([m + 0.1 * points(9, 5, i) for i, m in enumerate(middles)])
    for choose in CHOOSERS:
        assert sorted((choose(x, 5) // 9).tolist()) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("k", (0, -1, 13))
@pytest.mark.parametrize("choose", CHOOSERS)
def test_a_number_that_cannot_be_chosen_is_refused(choose: Callable[..., Tensor], k: int) -> None:
    with pytest.raises(DataError, match=f"{k} of 12 samples cannot be chosen; choose from 1 to 12"):
        choose(points(), k)


def test_features_are_means_over_places_and_tokens() -> None:
    x = points(24, 1).view(2, 3, 2, 2)
    assert torch.equal(pooled(x), x.mean((2, 3)))
    assert torch.equal(pooled(x.flatten(2)), x.flatten(2).mean(1))
    assert torch.equal(pooled(x[:, :, 0, 0]), x[:, :, 0, 0])
    assert pooled(x[:, 0, 0, 0]).shape == (2, 1)


def test_features_are_those_of_the_network_and_its_modules() -> None:
    t = small.task()
    before, ids = small.state(t.model), small.identities(t.model)
    with torch.no_grad():
        want = small.forward(t, t.model, t.calibrate).double()
        inner = t.model.get_submodule("bn1")(
            t.model.get_submodule("conv1")(t.calibrate.inputs)
        ).double()
    torch.testing.assert_close(features(t, t.calibrate, batch=5), want)
    found = features(t, t.calibrate, module="bn1", batch=5)
    torch.testing.assert_close(found, inner.mean((2, 3)))
    assert small.same_state(small.state(t.model), before)
    assert small.identities(t.model) == ids and small.hooks(t.model) == 0


def test_a_task_keeps_what_was_chosen_with_its_labels() -> None:
    t = small.task()
    made = selected(t, 7, choose=cover, module="conv2")
    index = cover(features(t, t.calibrate, module="conv2"), 7)
    assert made.search is t.search and len(made.calibrate) == 7
    assert isinstance(made.calibrate.inputs, Tensor) and isinstance(t.calibrate.inputs, Tensor)
    assert torch.equal(made.calibrate.inputs, t.calibrate.inputs[index])
    assert made.calibrate.labels is not None and t.calibrate.labels is not None
    assert torch.equal(made.calibrate.labels, t.calibrate.labels[index])


class Twice(nn.Module):
    """Uses one layer twice and puts out two tensors from another."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.pair = nn.Linear(3, 3), Both()

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(self.layer(x)) + self.pair(x)[0]


class Both(nn.Module):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return x, x


def test_modules_without_features_are_refused() -> None:
    data = Data(inputs=points(6).float())
    t = Task(name="t", model=toys.seeded(Twice()), calibrate=data, search=data, certify=data)
    with pytest.raises(InputError, match="no module 'head'"):
        features(t, data, module="head")
    with pytest.raises(InputError, match="'layer' ran 4 times in 2 batches"):
        features(t, data, module="layer", batch=4)
    with pytest.raises(InputError, match="'pair' puts out tuple, not one tensor"):
        features(t, data, module="pair")
