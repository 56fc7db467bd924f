"""Laws of streams: reach is what really sees fewer tokens, and what cannot is fixed with a reason.

Faults these laws must catch: a layer on the class token alone taken for one on all; a network
whose code counts its tokens left free; an output that lost places; two places that only work
alone.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from allot.site import Graph, Site
from allot.task import call
from allot.trace import trace
from tests import attention, small, toys


def places(graph: Graph) -> list[Site]:
    return [s for s in graph.sites if s.kind == "tokens"]


@pytest.fixture(scope="module")
def graph() -> Graph:
    return trace(attention.vision(), call, toys.images(2))


def test_places_lie_behind_layers_that_others_read_and_reach_those(graph: Graph) -> None:
    inside = ("attention.query", "attention.key", "attention.value", "attention.out", "up", "down")
    want = {
        "layers.0.tokens": {f"layers.{i}.{n}" for i in (1, 2) for n in inside},
        "layers.1.tokens": {f"layers.2.{n}" for n in inside},
    }
    assert {s.name: set(s.reach) for s in places(graph)} == want
    assert all(s.shape == (17, attention.WIDTH) and not s.fixed for s in places(graph))


def test_a_place_stands_between_its_block_and_what_reads_it(graph: Graph) -> None:
    order = [s.name for s in graph.sites]
    assert order.index("layers.0.block") < order.index("layers.0.tokens")
    assert order.index("layers.0.tokens") < order.index("layers.1.block")


@pytest.mark.parametrize("changes", [{"pool": "mean"}, {"entries": 2}, {"first": False}])
def test_other_layers_and_pools_have_the_same_places(changes: dict[str, object]) -> None:
    found = places(trace(attention.vision(**changes), call, toys.images(2)))
    assert [(s.name, s.fixed) for s in found] == [("layers.0.tokens", ""), ("layers.1.tokens", "")]


def test_networks_without_tokens_have_no_places() -> None:
    assert places(trace(toys.residual(), call, toys.images(2))) == []


def test_a_language_model_that_answers_at_every_place_is_fixed() -> None:
    ids = torch.arange(10).reshape(2, 5) % 5
    found = places(trace(attention.language(), call, ids))
    assert len(found) == 2 and all("changes shape" in s.fixed and not s.reach for s in found)


def test_code_that_counts_its_tokens_is_fixed() -> None:
    class Counts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.put, self.layer = nn.Linear(4, 8), attention.Layer()
            self.places = nn.Parameter(torch.ones(6, 8))
            self.mix, self.head = attention.Layer(), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.layer(self.put(x)) + self.places
            return self.head(self.mix(x)[:, 0])

    found = places(trace(toys.seeded(Counts()), call, torch.randn(2, 6, 4)))
    assert len(found) == 1 and "does not run" in found[0].fixed


def test_work_that_does_not_follow_the_tokens_is_fixed() -> None:
    class Pools(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.put, self.layer = nn.Linear(4, 8), attention.Layer()
            self.mid, self.head = nn.Linear(8, 8), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            x = self.layer(self.put(x))
            x = self.mid(x.reshape(len(x), -1, 8)[:, : x.shape[1] // 3])
            return self.head(x.mean(1))

    found = places(trace(toys.seeded(Pools()), call, torch.randn(2, 7, 4)))
    assert len(found) == 1 and "does not follow" in found[0].fixed


def test_a_network_that_is_exported_otherwise_than_it_runs_is_fixed() -> None:
    class Masks(nn.Module):
        """Makes a mask of all its tokens only where it is captured, as published ones do."""

        def __init__(self) -> None:
            super().__init__()
            self.put, self.layer = nn.Linear(4, 8), attention.Layer()
            self.mix, self.head = attention.Layer(), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            mask = torch.ones(x.shape[1], 1) if torch.compiler.is_exporting() else 1
            return self.head(self.mix(self.layer(self.put(x)) * mask)[:, 0])

    found = places(trace(toys.seeded(Masks()), call, torch.randn(2, 6, 4)))
    assert len(found) == 1 and "exported" in found[0].fixed


def test_the_digest_does_not_depend_on_the_example() -> None:
    model = attention.vision()
    few, many = (trace(model, call, toys.images(n, seed=n)) for n in (1, 5))
    assert few.digest == many.digest


def test_tracing_leaves_random_numbers_and_the_network_as_they_were() -> None:
    model, drawn = attention.vision(), torch.get_rng_state()
    before, parts = small.state(model), small.identities(model)
    trace(model, call, toys.images(2))
    assert torch.equal(drawn, torch.get_rng_state()) and small.hooks(model) == 0
    assert small.same_state(before, model.state_dict()) and parts == small.identities(model)
