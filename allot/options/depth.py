"""Depth: whether a block is there, or what enters it goes on as it is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from allot.option import Effect, Option, Statistic, Stats
from allot.site import Graph, Site, Touch
from allot.space import Choice, Space
from allot.target import Target


@dataclass(frozen=True, kw_only=True)
class Skip(Option):
    """Keep a block (the original), or drop it: its first input takes the place of its output.

    A dropped block costs no bytes and no MACs, whatever else is chosen for the layers in it
    (Veit et al. 2016 found that residual networks bear this; there is nothing to refit).
    level 0: what is quantized or thinned at the block's boundary stays so without it.
    """

    kind: ClassVar[str] = "block"
    level: ClassVar[int] = 0
    drop: bool

    @property
    def label(self) -> str:
        return "skip" if self.drop else "keep"

    @property
    def is_original(self) -> bool:
        return not self.drop

    def effect(self, site: Site) -> Effect:
        return Effect(gone=self.drop)

    def needs(self, site: Site, graph: Graph) -> tuple[Statistic, ...]:
        return ()

    def apply(
        self, module: nn.Module, *, touch: Touch, site: Site, graph: Graph, stats: Stats
    ) -> nn.Module:
        return Skipped(entries=len(touch.index))


class Skipped(nn.Module):
    """Stands in for a dropped block and holds nothing of it: first input tensor -> output.

    entries: of the tuple that the block returned, with the tensor first and None in the others;
    0 where it returned the tensor itself.
    """

    is_left_out: ClassVar[bool] = True

    def __init__(self, *, entries: int = 0) -> None:
        nn.Module.__init__(self)
        self.entries = entries

    def forward(self, *inputs: Any, **named: Any) -> Any:
        # a copy: who changes the output in place does not mean the input
        x = first_tensor(inputs, named).clone()
        return (x, *[None] * (self.entries - 1)) if self.entries else x


def first_tensor(inputs: tuple[Any, ...], named: dict[str, Any]) -> Tensor:
    """The first tensor that a module was called with, in the order of its call."""
    return next(x for x in (*inputs, *named.values()) if isinstance(x, Tensor))


def space(graph: Graph, target: Target) -> Space:
    """Every block that may be dropped: kept first, then dropped."""
    options = (Skip(drop=False), Skip(drop=True))
    return Space(
        graph=graph,
        choices=tuple(
            Choice(site=s.name, options=options)
            for s in graph.sites
            if s.kind == "block" and not s.fixed
        ),
    )
