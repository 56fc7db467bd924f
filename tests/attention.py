"""Attention: a small transformer over image patches or bytes, in plain layers, as toys are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from allot.bank import Bank
from allot.calibrate import calibrate, needed
from allot.measure import Meter
from allot.memo import Memo
from allot.options import depth, precision, tokens, width
from allot.options.width import removals
from allot.runtimes.ideal import Ideal
from allot.site import Graph
from allot.space import Choice, Space
from allot.sweep import find, left_out, unwrapped
from allot.trace import trace
from tests import small, toys

WIDTH = 8


class Attention(nn.Module):
    """Two heads: [n, t, c] -> [n, t, c], of any t."""

    def __init__(self, causal: bool) -> None:
        super().__init__()
        self.causal = causal
        self.query, self.key, self.value = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.out = nn.Linear(WIDTH, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        n, t, c = x.shape
        q, k, v = (f(x).view(n, t, 2, c // 2) for f in (self.query, self.key, self.value))
        scores = torch.einsum("nqhd,nkhd->nhqk", q, k) / c**0.5
        if self.causal:
            scores = scores + torch.full((t, t), -1e4).triu(1)
        return self.out(torch.einsum("nhqk,nkhd->nqhd", scores.softmax(3), v).reshape(n, t, c))


class Layer(nn.Module):
    """Attention and feed-forward, each with its shortcut; first: norms before or after them."""

    def __init__(self, *, first: bool = True, entries: int = 0, causal: bool = False) -> None:
        super().__init__()
        self.attention = Attention(causal)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 12), nn.Linear(12, WIDTH)
        self.first, self.entries = first, entries

    def forward(self, x: Tensor, scale: Tensor | None = None) -> Any:
        if self.first:
            x = x + self.attention(self.norm1(x))
            x = x + self.down(functional.gelu(self.up(self.norm2(x))))
        else:
            x = self.norm1(x + self.attention(x))
            x = self.norm2(x + self.down(functional.gelu(self.up(x))))
        return (x, *[x.sum(2)] * (self.entries - 1)) if self.entries else x


class Vision(nn.Module):
    """[n, 3, 8, 8] -> [n, 5]: 16 patches and a class token through layers, head on `pool`."""

    def __init__(self, depth: int = 3, *, pool: str = "class", **layer: Any) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 2, stride=2)
        self.first = nn.Parameter(torch.zeros(1, 1, WIDTH))
        self.places = nn.Parameter(torch.zeros(1, 17, WIDTH))
        self.layers = nn.ModuleList(Layer(**layer) for _ in range(depth))
        self.norm = nn.LayerNorm(WIDTH)
        self.head = nn.Linear(WIDTH, 5)
        self.pool = pool

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(len(x), -1, -1), x], 1) + self.places
        for layer in self.layers:
            x = layer(x)
            x = x[0] if isinstance(x, tuple) else x
        x = self.norm(x)
        return self.head({"class": x[:, 0], "mean": x.mean(1)}[self.pool])


class Language(nn.Module):
    """Next byte: [n, t] -> [n, t, 5], or of the last place alone [n, 5] with `last`."""

    def __init__(self, *, last: bool = False) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, WIDTH)
        self.layers = nn.Sequential(Layer(causal=True), Layer(causal=True))
        self.head = nn.Linear(WIDTH, 5)
        self.last = last

    def forward(self, x: Tensor) -> Tensor:
        x = self.layers(self.embed(x))
        return self.head(x[:, -1] if self.last else x)


def vision(seed: int = 0, **changes: Any) -> nn.Module:
    return toys.seeded(Vision(**changes), seed)


def made(**changes: Any) -> Callable[[], nn.Module]:
    """A maker of one kind of vision network, for a kit."""

    def make() -> nn.Module:
        return vision(**changes)

    return make


def language(*, last: bool = False) -> nn.Module:
    return toys.seeded(Language(last=last))


def all_axes(graph: Graph) -> Space:
    """Precision, width, depth, and tokens at every place, on the ideal target."""
    axes = (precision, width, depth)
    found = [a.space(graph, Ideal()) for a in axes]
    places = [s for s in graph.sites if s.kind == "tokens" and not s.fixed]
    options = tuple(tokens.KeepTokens(ratio=r) for r in (1.0, 0.7, 0.3))
    more = tuple(Choice(site=s.name, options=options) for s in places)
    return found[0] + found[1] + found[2] + Space(graph=graph, choices=more)


def kit(make: Callable[[], nn.Module]) -> small.Kit:
    """A task on images with everything up to the first measurement, on all axes."""
    t = small.task(make)
    graph = trace(t.model, t.forward, t.example())
    space = all_axes(graph)
    stats = calibrate(t, t.model, needed(space), batch=10)
    stats |= removals(t.model, graph, stats)
    bank = Bank(t.model, graph=graph, stats=stats)
    meter = Meter(t, bank, t.search, memo=Memo(), batch=7)
    return small.Kit(task=t, graph=graph, space=space, bank=bank, meter=meter)


def counted(k: small.Kit, model: nn.Module) -> dict[str, tuple[int, int]]:
    """Layer -> weights it has and multiplications per sample, both seen in a real forward."""
    found = {x.module: (0, 0) for x in k.graph.layers}

    def watch(name: str, layer: nn.Module) -> Any:
        weight = getattr(layer, "inner", layer).weight
        assert isinstance(weight, Tensor)

        def hook(module: nn.Module, args: Any, y: Tensor) -> None:
            found[name] = weight.numel(), y[0].numel() * weight[0].numel()

        return layer.register_forward_hook(hook)

    names = [x.module for x in k.graph.layers if not left_out(model, x.module)]
    handles = [watch(n, unwrapped(find(model, n))) for n in names]
    with torch.no_grad():
        k.task.forward(model, k.task.example())
    for h in handles:
        h.remove()
    return found
