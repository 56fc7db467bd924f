"""Stepped: a tensor of a sampler's network, with a range of its own at every step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import nn

from allot.errors import InputError
from allot.num.affine import Range
from allot.num.formats import Grid
from allot.option import OTHER, Effect, Option, Statistic, Stats
from allot.options.quantizers import SteppedQuantizer, at_edge
from allot.options.tensors import grid_label
from allot.site import Graph, Site, Touch


@dataclass(frozen=True, kw_only=True)
class Stepped(Option):
    """The tensor between layers on a grid, one range a step; without a grid the original.

    scales, zeros: by the number of the step.  times: what the network is told at each; a sampler
    with other steps is refused.  Statistics are of one network at one time, so the table is a
    setting; see `stepped`, and `sampling.ranges`, which fills it.
    """

    kind: ClassVar[str] = "activation"
    level: ClassVar[int] = 2
    grid: Grid | None
    scales: tuple[float, ...] = ()
    zeros: tuple[int, ...] = ()
    times: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        n, m, k = len(self.scales), len(self.zeros), len(self.times)
        bad = n != m or n != k or any(s <= 0 for s in self.scales)
        if bad or (n == 0) != (self.grid is None):
            raise InputError(
                "a table of ranges has a positive scale, a zero point and a time for every step, "
                f"and none for the original; {n} scales, {m} zero points and {k} times were given"
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
        times = torch.tensor(self.times, dtype=torch.float64)
        at = next((x.device for x in (*module.parameters(), *module.buffers())), scale.device)
        quantizer = SteppedQuantizer(
            grid=self.grid, scale=scale.to(at), zero=zero.to(at), times=times
        )
        return at_edge(module, touch.role, quantizer)


def stepped(found: Sequence[Range], grid: Grid, *, times: Sequence[float]) -> Stepped:
    """The option whose table is made of what a rule found at every step, [1] each."""
    return Stepped(
        grid=grid,
        scales=tuple(float(scale) for scale, _ in found),
        zeros=tuple(int(zero) for _, zero in found),
        times=tuple(times),
    )
