"""Laws of mixtures: the router is found and nothing else, tokens are those that experts read.

Faults these must catch: a row of blocks taken for experts, a head or stem for their router; an
expert missed because the first samples do not reach it; tokens counted for another sample; samples
lost or given twice when they are put in order; a rare expert that the first samples leave out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from allot.errors import ModelError
from allot.mixtures import balanced_first, mixtures, tokens
from allot.routing import balanced
from allot.site import Graph
from allot.task import Task
from allot.trace import trace
from tests import attention, mixture, small, toys

EXPERTS = tuple((f"experts.{i}.up", f"experts.{i}.down") for i in range(4))


class Twice(nn.Module):
    """Two mixtures one after another in a row of layers, each named from its own layer on."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(mixture.Mixture() for _ in range(2))
        for x in self.layers:
            x.head = nn.Linear(8, 8)
        self.out = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = x + layer(x)[:, None]
        return self.out(x.mean(1))


def graph(t: Task) -> Graph:
    return trace(t.model, t.forward, t.example())


def routed(t: Task) -> Tensor:
    """Tokens of each calibration sample that the router sends to each expert: [n, 4]."""
    found: list[Tensor] = []
    handle = t.model.get_submodule("router").register_forward_hook(
        lambda m, a, y: found.append(y.topk(2, 1).indices.view(-1, 12))
    )
    small.forward(t, t.model, t.calibrate)
    handle.remove()
    return torch.stack([(torch.cat(found) == e).sum(1) for e in range(4)], 1)


def test_a_router_and_its_experts_are_found() -> None:
    (found,) = mixtures(graph(mixture.task()))
    assert found.router == "router" and found.experts == EXPERTS


def test_each_of_several_mixtures_has_its_own_router() -> None:
    found = mixtures(graph(mixture.task(toys.seeded(Twice()))))
    assert [m.router for m in found] == ["layers.0.router", "layers.1.router"]
    for i, m in enumerate(found):
        assert {n.split(".")[1] for e in m.experts for n in e} == {str(i)}


@pytest.mark.parametrize("make", (toys.chain, toys.residual, attention.made(depth=2)))
def test_rows_of_other_modules_are_no_experts(make: Callable[[], nn.Module]) -> None:
    assert mixtures(graph(small.task(make))) == ()


@pytest.mark.parametrize("expert", (1, 3))
def test_an_expert_that_the_traced_example_does_not_reach_is_one_all_the_same(expert: int) -> None:
    t = mixture.task(mixture.rare(expert, -1e6))
    g = graph(t)
    assert f"experts.{expert}.up" not in {x.module for x in g.layers}
    (found,) = mixtures(g)
    assert {frozenset(e) for e in found.experts} == {frozenset(e) for e in EXPERTS}


def test_tokens_are_those_that_the_router_sends() -> None:
    t = mixture.task()
    counts = tokens(t, t.calibrate, mixtures(graph(t)))
    assert torch.equal(counts, routed(t))
    assert bool((counts.sum(1) == 12).all()) and not small.hooks(t.model)


def test_the_network_is_left_in_its_mode() -> None:
    t = mixture.task()
    t.model.train()
    t.model.head.eval()  # type: ignore[union-attr]
    before = [m.training for m in t.model.modules()]
    tokens(t, t.calibrate, mixtures(graph(t)))
    assert [m.training for m in t.model.modules()] == before


@pytest.mark.parametrize("samples", (3, 8, 20, 512))
def test_the_order_changes_and_no_sample_is_lost(samples: int) -> None:
    t = mixture.task(mixture.rare(3, -3.0))
    new = balanced_first(t, graph(t), samples=samples)
    old, got = (x.calibrate.inputs for x in (t, new))
    assert isinstance(old, Tensor) and isinstance(got, Tensor)
    rows = [tuple(x.flatten().tolist()) for x in got]
    assert sorted(rows) == sorted(tuple(x.flatten().tolist()) for x in old)
    assert new.search is t.search and new.certify is t.certify and new.model is t.model
    if samples < len(old):
        counts = routed(t)
        best = counts[balanced(counts, samples)].sum(0).sort().values
        assert torch.equal(routed(new)[:samples].sum(0).sort().values, best)


def test_with_an_expert_planted_rare_the_first_samples_reach_every_one() -> None:
    t = mixture.task(mixture.rare(3, -3.2), n=120)
    counts = routed(t)
    order = counts[:, 3].argsort(stable=True)  # those that reach it stand last
    t = replace(t, calibrate=t.calibrate.subset(order))
    assert 0 < int(counts[:, 3].sum()) and not int(routed(t)[:8, 3].sum())
    first = routed(balanced_first(t, graph(t), samples=8))
    assert bool((first[:8].sum(0) > 0).all())
    # and so does the example that a network is traced with
    assert bool((first[:2].sum(0) > 0).all())


def test_where_no_sample_reaches_an_expert_the_others_are_balanced() -> None:
    t = mixture.task(mixture.rare(3, -1e6))
    first = routed(balanced_first(t, graph(t), samples=5))[:5].sum(0)
    assert first[3] == 0 and bool((first[:3] > 0).all())


def test_a_network_without_experts_is_refused() -> None:
    t = small.task()
    with pytest.raises(ModelError, match="no mixture of experts"):
        balanced_first(t, graph(t))
