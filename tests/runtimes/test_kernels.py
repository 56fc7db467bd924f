"""Laws of what CPU runtimes have kernels for, where ranges are found at run time.

Faults these must catch: ranges that no kernel finds offered in silence, a convolution taken for a
linear, a reason that does not say what would do.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from allot.num.formats import Grid, Int, UInt
from allot.num.live_ranges import AtRunTime
from allot.option import FIXED, GROUPS, LIVE, OTHER
from allot.options.precision import Activation
from allot.options.sharing import PerChannel, PerGroup, PerTensor, PerToken, Sharing
from allot.options.tensors import ActivationFormat
from allot.runtimes import Ideal, OnnxRuntime, OpenVino
from allot.site import Graph, Site
from allot.target import Target
from allot.trace import trace

TARGETS: tuple[Target, ...] = (OnnxRuntime(), OpenVino(), Ideal())


class Both(nn.Module):
    """A convolution, then a linear: [n, 3, 8, 8] -> [n, 4]."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.conv, self.head = nn.Conv2d(3, 64, 3), nn.Linear(64, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.conv(x).mean((2, 3)))
        return out


@pytest.fixture(scope="module")
def graph() -> Graph:
    model = Both().eval()
    return trace(model, lambda m, x: m(x), torch.randn(2, 3, 8, 8))


def before(graph: Graph, module: str) -> Site:
    return graph.site(graph.layer(module).input)


def live(grid: Grid, sharing: Sharing, **how: float) -> ActivationFormat:
    return ActivationFormat(grid=grid, sharing=sharing, ranges=AtRunTime(**how))  # type: ignore[arg-type]


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_signed_ranges_of_8_bits_are_found_for_linears(target: Target, graph: Graph) -> None:
    for sharing in (PerTensor(), PerToken(), PerGroup(size=16), PerGroup(size=64)):
        option = live(Int(bits=8), sharing)
        assert "" == target.can(option, before(graph, "head"), graph)
        assert "linears alone" in target.can(option, before(graph, "conv"), graph)


@pytest.mark.parametrize("target", TARGETS, ids=lambda t: t.name)
def test_what_no_kernel_finds_is_refused_with_the_reason(target: Target, graph: Graph) -> None:
    site = before(graph, "head")
    assert "signed integers" in target.can(live(UInt(bits=8), PerToken()), site, graph)
    assert "signed integers" in target.can(live(Int(bits=8), PerToken(), clip=0.9), site, graph)
    assert "16, 32, 64" in target.can(live(Int(bits=8), PerGroup(size=8)), site, graph)
    channels = ActivationFormat(grid=UInt(bits=8), sharing=PerChannel())
    assert "one range" in target.can(channels, site, graph)
    for bits in (4, 6):
        assert "8" in target.can(live(Int(bits=bits), PerGroup(size=16)), site, graph)


def test_a_bill_says_how_ranges_are_found(graph: Graph) -> None:
    site = before(graph, "head")
    found = {
        option.effect(site).ranges: option.effect(site).group
        for option in (
            Activation(bits=8), live(Int(bits=8), PerToken()), live(Int(bits=8), PerGroup(size=16)),
            live(UInt(bits=8), PerToken()),
        )
    }  # fmt: skip
    assert found == {FIXED: 0, LIVE: 0, GROUPS: 16, OTHER: 0}
