"""Laws of split concatenations: parts add up, and each may have a grid of its own."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from allot.errors import ModelError
from allot.rewrites.concat_split import PartSum, SplitConcats, joins
from allot.trace import trace
from tests import small, toys
from tests.rewrites import proofs


class Skip(nn.Module):
    """A small U-Net: the way up reads what comes from below, joined with a shortcut."""

    def __init__(self) -> None:
        super().__init__()
        self.enter = nn.Conv2d(3, 6, 3, padding=1)
        self.down = nn.Conv2d(6, 10, 3, padding=1, stride=2)
        self.norm = nn.GroupNorm(2, 16)
        self.up = nn.Conv2d(16, 8, 3, padding=1)
        self.short = nn.Conv2d(16, 8, 1, bias=False)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        a = torch.relu(self.enter(x))
        b = functional.interpolate(torch.relu(self.down(a)), scale_factor=2.0)
        c = torch.cat([b, a], 1)
        x = self.up(functional.silu(self.norm(c))) + self.short(c)
        return self.head(x.mean((2, 3)))


def skip() -> nn.Module:
    """The shortcut is forty times as large as what comes from below, and read with less weight."""
    model = toys.seeded(Skip())
    with torch.no_grad():
        model.enter.weight *= 40  # type: ignore[operator, union-attr]
        model.enter.bias *= 40  # type: ignore[operator, union-attr]
        model.down.weight /= 40  # type: ignore[operator, union-attr]
        model.short.weight[:, 10:] /= 40  # type: ignore[index, union-attr]
    return model


def test_layers_are_split_where_tensors_meet() -> None:
    t = small.task(skip)
    assert joins(t) == {"up": (0, 10, 16), "short": (0, 10, 16)}
    assert joins(small.task(toys.dense)) == {
        "conv3": (0, 6, 10),
        "head": (0, 6, 10, 14),
    }


@pytest.mark.parametrize("make", (skip, toys.dense))
def test_the_output_is_the_same_and_every_part_has_its_sites(make: object) -> None:
    t = small.task(make)  # type: ignore[arg-type]
    found = joins(t)
    new = proofs.check_rewrite(t, SplitConcats())
    graph = trace(new.model, new.forward, new.example())
    for name, starts in found.items():
        parts = [x for x in graph.layers if x.module.startswith(f"{name}.parts.")]
        widths = [b - a for a, b in pairwise(starts)]
        assert [x.weight[1] for x in parts] == widths
        assert len({x.input for x in parts}) == len(parts)
        assert [x.bias for x in parts[1:]] == [False] * (len(parts) - 1)


def test_tensors_of_different_range_gain_at_four_bits() -> None:
    t = small.task(skip)
    wanted = proofs.output(t)
    new = proofs.check_rewrite(t, SplitConcats(layers=("short",)))
    was = proofs.input_error(t, wanted, only=lambda n: n == "short")
    now = proofs.input_error(new, wanted, only=lambda n: n.startswith("short."))
    assert now < was / 4


def test_parts_of_a_linear_behind_a_flattened_join() -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(3, 2, 3), nn.Conv2d(3, 4, 3)
            self.head = nn.Linear(6 * 36, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(torch.relu(torch.cat([self.a(x), self.b(x)], 1)).flatten(1))

    t = small.task(lambda: toys.seeded(Flat()))
    assert joins(t) == {"head": (0, 72, 216)}
    proofs.check_rewrite(t, SplitConcats())


def test_parts_are_copies() -> None:
    layer = nn.Linear(6, 4)
    parts = PartSum(layer, (0, 2, 6))
    with torch.no_grad():
        parts.parts[0].weight.zero_()  # type: ignore[operator, union-attr]
    assert float(layer.weight.detach().abs().min()) > 0 and layer.in_features == 6


def test_bad_input_is_told() -> None:
    with pytest.raises(ModelError, match=r"nothing is to be split.*torch.cat"):
        SplitConcats().apply(small.task(toys.chain))
    with pytest.raises(ModelError, match="enter reads none"):
        SplitConcats(layers=("up", "enter")).apply(small.task(skip))
