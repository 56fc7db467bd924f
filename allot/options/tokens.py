"""Tokens: how many of the tokens that leave a block go on to everything behind it."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from allot.errors import InputError
from allot.option import Effect, Option, Statistic, Stats, kept_tokens
from allot.options.depth import first_tensor
from allot.options.standins import inner_attribute
from allot.part import Part
from allot.site import Graph, Site, Touch
from allot.space import Choice, Space
from allot.target import Target

# of what arrives, in two places: EViT takes three places of 0.7
RATIOS = (1.0, 0.75, 0.5)
PLACES = 2
_GOLDEN = (5**0.5 - 1) / 2


@dataclass(frozen=True, kw_only=True)
class Order(Part):
    """Which tokens behind the first one stay: those of largest score."""

    @abstractmethod
    def scores(self, tokens: Tensor, before: Tensor) -> Tensor:
        """tokens [n, t, c] after a block, before [n, t, c] it -> scores [n, t]."""


@dataclass(frozen=True, kw_only=True)
class Spread(Order):
    """The same places in every sample, evenly: the fractions of multiples of the golden ratio.

    Gaps between them have at most three lengths (Steinhaus's theorem, Sos 1958), and the places of
    a smaller share are among those of a larger.
    """

    def scores(self, tokens: Tensor, before: Tensor) -> Tensor:
        # counted from the tensor itself, so that an exported graph stores no places
        return torch.frac(torch.ones_like(tokens[:, :, 0]).cumsum(1) * _GOLDEN)


@dataclass(frozen=True, kw_only=True)
class Length(Order):
    """Those of largest squared length; needs no attention weights, unlike Liang et al. (2022)."""

    def scores(self, tokens: Tensor, before: Tensor) -> Tensor:
        return tokens.square().sum(2)


@dataclass(frozen=True, kw_only=True)
class KeepTokens(Option):
    """After a block, keep the first token and the share `ratio` of the others, rounded up.

    ratio: of the tokens that arrive, so that two places in a row multiply; 1 is the original.
    Kept tokens stay in their order, the first (class) token always stays, storage does not change.
    What is left out is lost; Liang et al. (2022) fuse it into one token, Bolya et al. (2023) merge
    alike ones.

    order: which stay.  On a vision transformer for Fashion-MNIST (50 tokens, 4 layers, 1 000
    images), thinned behind its first two layers to 0.75 and to 0.5 each, the divergence was 0.0024
    and 0.011 nats spread, 0.023 and 0.16 by length, 0.031 and 0.19 by length of the change that
    the block made: without the attention of the class token, a score picks one kind of patch.
    """

    kind: ClassVar[str] = "tokens"
    level: ClassVar[int] = 0
    ratio: float
    order: Order = Spread()

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise InputError(f"a share of tokens lies above 0 and up to 1, got {self.ratio}")

    @property
    def label(self) -> str:
        return f"tokens{self.ratio:g}"

    @property
    def is_original(self) -> bool:
        return self.ratio == 1

    def effect(self, site: Site) -> Effect:
        return Effect(tokens=self.ratio)

    def needs(self, site: Site, graph: Graph) -> tuple[Statistic, ...]:
        return ()

    def apply(
        self, module: nn.Module, *, touch: Touch, site: Site, graph: Graph, stats: Stats
    ) -> nn.Module:
        return Thinned(inner=module, ratio=self.ratio, order=self.order)


class Thinned(nn.Module):
    """`inner`, of whose output tokens [n, t, c] some go on: [n, kept_tokens(t, ratio), c]."""

    is_wrapper: ClassVar[bool] = True

    def __init__(self, *, inner: nn.Module, ratio: float, order: Order) -> None:
        nn.Module.__init__(self)
        self.inner, self.ratio, self.order = inner, ratio, order

    def __getattr__(self, name: str) -> Any:
        return inner_attribute(self, name)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        before = first_tensor(inputs, named).clone()  # blocks may work in place
        output = self.inner(*inputs, **named)
        if isinstance(output, tuple):
            return (self.kept(output[0], before), *output[1:])
        return self.kept(output, before)

    def kept(self, tokens: Tensor, before: Tensor) -> Tensor:
        """The first token and those that the order puts first, as they stood."""
        n = kept_tokens(tokens.shape[1], self.ratio) - 1
        scores = self.order.scores(tokens, before)[:, 1:]
        others = scores.topk(n, dim=1).indices.sort(dim=1).values + 1
        index = torch.cat([torch.zeros_like(others[:, :1]), others], dim=1)
        return tokens.gather(1, index[:, :, None].expand(-1, -1, tokens.shape[2]))


def space(graph: Graph, target: Target) -> Space:
    """Up to two places, evenly spread over the blocks: all tokens first, then fewer.

    More places or ratios are choices of the caller's own: every layer behind a place multiplies
    its combinations into its bill.
    """
    sites = [s for s in graph.sites if s.kind == "tokens" and not s.fixed]
    n = min(PLACES, len(sites))
    picked = [sites[(len(sites) + 1) * (i + 1) // (n + 1) - 1] for i in range(n)]
    options = tuple(KeepTokens(ratio=r) for r in RATIOS)
    return Space(graph=graph, choices=tuple(Choice(site=s.name, options=options) for s in picked))
