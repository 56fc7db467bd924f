"""Toy space: a chain of layers with steps to choose, real as a space, empty as a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from torch import nn

from allot.option import Effect, Option, Statistic, Stats
from allot.site import Graph, Layer, Site, Touch
from allot.space import Choice, Space


@dataclass(frozen=True, kw_only=True)
class Step(Option):
    """The n-th cheaper way at a toy site; 0 is the original."""

    kind: ClassVar[str] = "weight"
    level: ClassVar[int] = 1
    at: int

    @property
    def label(self) -> str:
        return f"step{self.at}" if self.at else "float"

    @property
    def is_original(self) -> bool:
        return self.at == 0

    def effect(self, site: Site) -> Effect:
        return Effect(stored_bits=32.0 / 2**self.at)

    def needs(self, site: Site, graph: Graph) -> tuple[Statistic, ...]:
        return ()

    def apply(
        self, module: nn.Module, *, touch: Touch, site: Site, graph: Graph, stats: Stats
    ) -> nn.Module:
        return module


def space(counts: Sequence[int]) -> Space:
    """A chain of linear layers with counts[i] options for the weight of layer i."""
    names = [f"layer{i}" for i in range(len(counts))]
    graph = Graph(
        layers=tuple(
            Layer(module=n, op="linear", weight=(8, 8), in_shape=(8,), out_shape=(8,), macs=64)
            for n in names
        ),
        sites=tuple(
            Site(
                name=f"{n}.weight",
                kind="weight",
                shape=(8, 8),
                touches=(Touch(module=n, role="weight"),),
                reach=(n,),
            )
            for n in names
        ),
        norms=(),
        order=tuple((n, end) for n in names for end in ("start", "end")),
    )
    choices = (
        Choice(site=f"{n}.weight", options=tuple(Step(at=k) for k in range(count)))
        for n, count in zip(names, counts, strict=True)
    )
    return Space(graph=graph, choices=tuple(choices))
