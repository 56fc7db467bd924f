"""Stepped: a tensor of a sampler's network, with a range of its own at every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from allot.errors import InputError
from allot.num.activation_ranges import ActivationRange, Seen
from allot.num.formats import Grid
from allot.option import OTHER, Effect, Option, Statistic, Stats
from allot.options.quantizers import SteppedQuantizer, at_edge
from allot.options.tensors import grid_label
from allot.site import Graph, Site, Touch


@dataclass(frozen=True, kw_only=True)
class Stepped(Option):
    """The tensor between layers on a grid, one range a step; without a grid the original.

    scales, zeros: by the number of the step (`quantizers.at_step` says which one it is).
    Statistics are of one network at one time, so the table is a setting; see `stepped`.
    """

    kind: ClassVar[str] = "activation"
    level: ClassVar[int] = 2
    grid: Grid | None
    scales: tuple[float, ...] = ()
    zeros: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        n, m = len(self.scales), len(self.zeros)
        if n != m or (n == 0) != (self.grid is None) or any(s <= 0 for s in self.scales):
            raise InputError(
                "a table of ranges has a positive scale and a zero point for every step, and none "
                f"for the original; {n} scales and {m} zero points were given"
            )

    @property
    def label(self) -> str:
        return "float" if self.grid is None else f"{grid_label(self.grid)}steps{len(self.scales)}"

    @property
    def is_original(self) -> bool:
        return self.grid is None

    def effect(self, site: Site) -> Effect:
        if self.grid is None:
            return Effect()
        return Effect(stored_bits=self.grid.width, compute_bits=self.grid.width, ranges=OTHER)

    def needs(self, site: Site, graph: Graph) -> tuple[Statistic, ...]:
        return ()

    def apply(
        self, module: nn.Module, *, touch: Touch, site: Site, graph: Graph, stats: Stats
    ) -> nn.Module:
        assert self.grid is not None
        scale, zero = torch.tensor(self.scales), torch.tensor(self.zeros)
        at = next((x.device for x in (*module.parameters(), *module.buffers())), scale.device)
        quantizer = SteppedQuantizer(grid=self.grid, scale=scale.to(at), zero=zero.to(at))
        return at_edge(module, touch.role, quantizer)


def stepped(seen: Sequence[Seen], grid: Grid, ranges: ActivationRange) -> Stepped:
    """The option whose table is what a rule makes of what was seen of one tensor at every step."""
    found = [ranges.fit(s, grid) for s in seen]
    return Stepped(
        grid=grid,
        scales=tuple(float(scale) for scale, _ in found),
        zeros=tuple(int(zero) for _, zero in found),
    )
