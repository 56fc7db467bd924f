"""Laws of finding where tensors were joined.

Faults these laws must catch: seams of another dim; parts of parts forgotten; a seam that is kept
where channels are mixed.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from allot.joined import joined
from allot.trace import trace
from tests import attention, small, toys


def found(model: nn.Module) -> dict[str, tuple[int, ...]]:
    def forward(m: nn.Module, x: Tensor) -> Tensor:
        return m(x)

    x = toys.images(2)
    return joined(model, trace(model, forward, x), forward, x)


def test_a_seam_passes_a_norm_and_not_a_mean() -> None:
    """conv3 reads 6 + 4 channels through a norm, head the means of those and 4 more."""
    assert found(toys.dense()) == {"conv3.input": (6,)}


class Skips(nn.Module):
    """A U-shaped net: the second half reads its own tensor beside one of the first."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Conv2d(3, 6, 3, stride=2, padding=1)
        self.deep = nn.Conv2d(6, 10, 3, padding=1)
        self.norm = nn.GroupNorm(4, 16)
        self.up = nn.Conv2d(16, 4, 3, padding=1)
        self.short = nn.Conv2d(16, 4, 1)
        self.last = nn.Conv2d(7, 5, 3, padding=1)
        self.all = nn.Conv2d(23, 5, 1)

    def forward(self, x: Tensor) -> Tensor:
        a = self.down(x)
        b = torch.cat([self.deep(functional.relu(a)), a], 1)
        y = self.up(functional.silu(self.norm(b))) + self.short(b)
        y = functional.interpolate(y, scale_factor=2.0, mode="nearest")
        z = torch.cat([y, x], 1)
        wide = functional.interpolate(b, scale_factor=2.0, mode="nearest")
        return (self.last(z) + self.all(torch.cat([wide, z], 1))).mean((2, 3))


def test_all_readers_of_skips_see_their_seams_and_parts_of_parts_are_parts() -> None:
    assert found(toys.seeded(Skips())) == {
        "up.input": (10,), "short.input": (10,), "last.input": (4,), "all.input": (10, 16, 20),
    }  # fmt: skip


def test_networks_that_join_nothing_along_channels_have_no_seams() -> None:
    for make in (toys.chain, toys.residual, toys.separable):
        assert found(make()) == {}
    assert found(attention.vision()) == {}  # the class token is joined along the tokens


def test_looking_leaves_no_trace() -> None:
    model = toys.dense()
    before = small.state(model)
    found(model)
    assert small.hooks(model) == 0 and small.same_state(before, small.state(model))
