"""Laws of blocks: outermost units with a shortcut are found, and the network goes without them.

Faults these laws must catch: a stage or the half of a layer taken for a block; a block called
twice; a quantized tensor that vanishes with the block that made it; channels of the input that are
not those of the output; anything left behind in the network.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from allot.blocks import swapped
from allot.options.depth import Skipped
from allot.proof import mask, narrow
from allot.site import Graph, Site
from allot.sweep import observed
from allot.task import call
from allot.trace import trace
from tests import attention, small, toys


def traced(model: nn.Module) -> Graph:
    return trace(model, call, toys.images(2))


def block_sites(graph: Graph, *, fixed: bool = False) -> list[Site]:
    return [s for s in graph.sites if s.kind == "block" and bool(s.fixed) == fixed]


def names(model: nn.Module) -> list[str]:
    return [s.touches[0].module for s in block_sites(traced(model))]


def test_residual_blocks_of_one_shape_are_found_and_no_stages() -> None:
    assert names(toys.residual()) == ["layer1.0", "layer1.1", "layer2.1"]
    assert names(toys.padded()) == ["layer1.0"]


@pytest.mark.parametrize("make", [toys.chain, toys.dense, toys.separable, toys.constant])
def test_networks_without_shortcuts_have_none(make: Callable[[], nn.Module]) -> None:
    assert {s.kind for s in traced(make()).sites} == {"weight", "activation", "channels"}


@pytest.mark.parametrize("changes", [{}, {"entries": 1}, {"entries": 2}, {"first": False}])
def test_transformer_layers_are_found_whole(changes: dict[str, int]) -> None:
    graph = traced(attention.vision(**changes))
    found = block_sites(graph)
    assert [s.touches[0].module for s in found] == ["layers.0", "layers.1", "layers.2"]
    for s in found:
        assert s.shape == (17, attention.WIDTH) and len(s.reach) == 6
        assert len(s.touches[0].index) == changes.get("entries", 0)


def test_of_one_layer_inside_others_the_innermost_that_holds_it_all_is_found() -> None:
    inner = nn.Sequential(attention.Layer())
    model = nn.Sequential(nn.Linear(4, 8), nn.Sequential(inner, nn.ReLU()), nn.Linear(8, 5))
    graph = trace(toys.seeded(model), call, torch.randn(2, 3, 4))
    assert [s.name for s in block_sites(graph)] == ["1.0.0.block"]


def test_every_found_block_can_go_also_from_narrowed_networks() -> None:
    model, x = toys.residual().double(), toys.images(3, seed=5).double()
    graph = trace(model, call, x)
    free = [s for s in graph.sites if s.kind == "channels" and not s.fixed]
    keeps = {s: set(range(0, s.shape[0], 2)) for s in free}
    for site in block_sites(graph):
        standins = {site.touches[0].module: Skipped()}
        outputs = []
        for made in (narrow(model, keeps), mask(model, keeps)):
            with swapped(made, standins):
                outputs.append(made(x))
        assert torch.allclose(*outputs, rtol=1e-10, atol=1e-12)


class Late(nn.Module):
    """A block that ends in a module of its own, as many published ones do."""

    def __init__(self, end: nn.Module) -> None:
        super().__init__()
        self.conv, self.end = nn.Conv2d(6, 6, 3, padding=1), end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(x + self.conv(x))


def late(end: Callable[[], nn.Module]) -> nn.Module:
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
    return toys.seeded(nn.Sequential(nn.Conv2d(3, 6, 1), Late(end()), Late(end()), *head))


def test_what_is_read_behind_a_block_is_changed_behind_it() -> None:
    model = late(nn.ReLU)
    graph = traced(model)
    site = graph.site("2.conv.input")
    assert [(t.module, t.role) for t in site.touches] == [("1", "out")]
    seen: list[Tensor] = []
    hooks = {("1", "out"): [torch.zeros_like], ("2.conv", "in"): [seen.append]}
    with swapped(model, {"1": Skipped()}), observed(model, hooks), torch.no_grad():  # type: ignore[arg-type]
        model(toys.images(2))
    assert seen and not seen[0].any()


def test_post_norm_layers_hand_on_what_they_hand_on_without_them() -> None:
    graph = traced(attention.vision(first=False))
    touch = graph.site("layers.1.attention.query.input").touches[0]
    assert (touch.module, touch.role) == ("layers.0", "out")


def test_a_block_that_permutes_channels_is_fixed_and_says_why() -> None:
    class Turn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(6, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([x[:, 3:], self.conv(x)], 1)

    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
    graph = traced(toys.seeded(nn.Sequential(nn.Conv2d(3, 6, 1), Turn(), *head)))
    (site,) = [s for s in graph.sites if s.kind == "block"]
    free = [s for s in graph.sites if s.kind == "channels" and not s.fixed]
    assert free and site.fixed


def test_a_path_through_a_norm_alone_is_no_shortcut() -> None:
    class Gate(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.conv = nn.BatchNorm2d(6), nn.Conv2d(6, 6, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.norm(x) + self.conv(torch.ones_like(x))

    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 5))
    assert names(toys.seeded(nn.Sequential(nn.Conv2d(3, 6, 1), Gate(), *head))) == []


def test_a_block_called_twice_is_none() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.block = nn.Conv2d(3, 6, 1), Late(nn.ReLU())
            self.head = nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.block(self.block(self.conv(x))).mean((2, 3)))

    assert names(toys.seeded(Twice())) == []


def test_the_second_entry_of_a_tuple_that_is_read_keeps_the_block() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.put, self.layer = nn.Linear(4, 8), attention.Layer(entries=2)
            self.head = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            x, sums = self.layer(self.put(x))
            return self.head(x).mean(1) + sums.mean(1, keepdim=True)

    graph = trace(toys.seeded(Reads()), call, torch.randn(2, 3, 4))
    (site,) = block_sites(graph, fixed=True)
    assert "does not run" in site.fixed


def test_tracing_leaves_the_network_as_it_was() -> None:
    model = attention.vision().train()
    before, parts = small.state(model), small.identities(model)
    traced(model)
    assert small.same_state(before, model.state_dict()) and model.training
    assert parts == small.identities(model) and small.hooks(model) == 0


def test_swapping_is_undone_after_a_failure() -> None:
    model = toys.residual()
    parts = small.identities(model)
    with pytest.raises(ValueError), swapped(model, {"layer1.0": Skipped()}):
        raise ValueError
    assert parts == small.identities(model)
