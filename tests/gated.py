"""Gated: a small network of linears with plans for its weights and ranges, stored and exported."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from allot.deploy import deploy
from allot.num.formats import Float16, Format, Int, UInt
from allot.num.live_ranges import AtRunTime
from allot.num.rounding import Nearest
from allot.onnx_graph import to_onnx
from allot.option import Option
from allot.options.formatted import Formatted
from allot.options.quantizers import LiveQuantizer, at_edge
from allot.runtimes import OnnxRuntime, OpenVino
from allot.site import Graph
from allot.target import Target, Workload
from allot.trace import trace

CPU = (OnnxRuntime(), OpenVino())
# of a norm; rounding of float32 in another order
NEAR = 3e-6


class Gated(nn.Module):
    """Tokens [n, t, 64] -> [n, t, 16]: two linears read one norm, a third their product."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.norm = nn.LayerNorm(64)
        self.up, self.gate = nn.Linear(64, 32), nn.Linear(64, 32, bias=False)
        self.down = nn.Linear(32, 16)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        out: Tensor = self.down(torch.relu(self.up(x)) * self.gate(x))
        return out


class Residual(Gated):
    """The same, where a sum reads the norm too: [n, t, 64] -> [n, t, 16]."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        out: Tensor = self.down(torch.relu(self.up(x)) * self.gate(x)) + x[..., :16]
        return out


def tokens(*shape: int) -> Tensor:
    g = torch.Generator().manual_seed(1)
    return torch.randn(*(shape or (6, 5)), 64, generator=g) * torch.randn(64, generator=g).exp()


def network(kind: Callable[[], nn.Module] = Gated) -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return kind().eval().requires_grad_(False)


def weights(bits: int, group: int, *, zeros: bool = False) -> Option:
    grid = UInt(bits=bits) if zeros else Int(bits=bits)
    fmt = Format(grid=grid, group=group, scales=Float16(), asymmetric=zeros)
    return Formatted(name="w", format=fmt, rounding=Nearest())


def planned(
    model: nn.Module, graph: Graph, weight: Sequence[Option], live: Sequence[int | None]
) -> nn.Module:
    """Weights of layers, and who shares ranges of the tensors before them; None for float."""
    new = copy.deepcopy(model)
    for layer, option in zip(graph.layers, weight, strict=True):
        old = new.get_submodule(layer.module)
        setattr(new, layer.module, option.encoded(old, gram=None))  # type: ignore[attr-defined]
    sites = [s for s in graph.sites if s.kind == "activation"]
    for site, group in zip(sites, live, strict=True):
        touch = site.touches[0]
        if group is not None:
            ranges = LiveQuantizer(grid=Int(bits=8), ranges=AtRunTime(), dim=-1, group=group)
            inner = new.get_submodule(touch.module)
            setattr(new, touch.module, at_edge(inner, touch.role, ranges))
    return new


@dataclass(frozen=True, eq=False)
class Made:
    """A planned network, its stored form, and the file of it."""

    plan: nn.Module
    deployed: nn.Module
    graph: Graph
    onnx: bytes

    def holds(self, x: Tensor) -> bool:
        """Whether all of them compute the same."""
        wanted = self.plan(x)
        torch.testing.assert_close(self.deployed(x), wanted, rtol=1e-6, atol=1e-6)
        return all(same(self.onnx, target, x, wanted) for target in CPU)


@functools.cache
def made(
    weight: tuple[Option, ...], live: tuple[int | None, ...],
    kind: Callable[[], nn.Module] = Gated, shape: tuple[int, ...] = (6, 5),
) -> Made:  # fmt: skip
    """Exports take a second each: not to be changed."""
    model, x = network(kind), tokens(*shape)
    graph = trace(model, lambda m, x: m(x), x)
    plan = planned(model, graph, weight, live)
    deployed = deploy(plan, graph)
    return Made(plan, deployed, graph, to_onnx(deployed, x[:2]))


def same(onnx: bytes, target: Target, x: Tensor, wanted: Tensor) -> bool:
    got = target.open(onnx, workload=Workload(batch=len(x))).run({"input": x.numpy()})["output"]
    return float((torch.from_numpy(got) - wanted).norm() / wanted.norm()) < NEAR
