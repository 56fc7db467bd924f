"""Tensors: formats of what passes between layers; any grid, who shares a range, whence it comes."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from allot.errors import DataError, InputError, PlanError
from allot.num.activation_ranges import ActivationRange, Seen, Shrink
from allot.num.formats import Float32, Grid, Int, UInt
from allot.num.live_ranges import AtRunTime
from allot.num.minifloat import Minifloat
from allot.option import FIXED, GROUPS, LIVE, OTHER, Effect, Option, Statistic, Stats
from allot.options.narrow import positions
from allot.options.precision import Values
from allot.options.quantizers import LiveQuantizer, StaticQuantizer, at_edge
from allot.options.ranges_seen import ChannelValues, Histogram, TokenExtremes, bins, not_finite
from allot.options.sharing import PerChannel, PerTensor, Sharing
from allot.options.standins import OnGrid, QuantizedInput, QuantizedOutput
from allot.site import Graph, Site, Touch

_ROWS = 1024


@dataclass(frozen=True, kw_only=True)
class ActivationFormat(Option):
    """The tensor between layers on a grid; None is the original.

    sharing: who shares a range.  ranges: a rule that fixes them on the calibration data, or
    `AtRunTime`.  The bill is the grid's width: no scale of an activation is stored, and those
    that are made at run time are not counted either.
    """

    kind: ClassVar[str] = "activation"
    level: ClassVar[int] = 2
    grid: Grid | None
    sharing: Sharing = PerTensor()  # noqa: RUF009 - frozen, shared by intent
    ranges: ActivationRange | AtRunTime = Shrink()  # noqa: RUF009 - frozen, shared by intent

    def __post_init__(self) -> None:
        live, who = isinstance(self.ranges, AtRunTime), type(self.sharing).__name__
        if live and not self.sharing.live:
            raise InputError(f"{who} has ranges that are fixed beforehand; give it a rule for them")
        if not live and not self.sharing.fixed:
            raise InputError(f"{who} has ranges of its own at run time; give it AtRunTime()")
        if self.sharing != PerTensor() and self._reads_more():
            raise InputError(f"{type(self.ranges).__name__} finds one range for a whole tensor")

    def _reads_more(self) -> bool:
        rule = self.ranges
        return isinstance(rule, ActivationRange) and (rule.reads_tokens or rule.reads_histogram)

    @property
    def label(self) -> str:
        """The grid, who shares, the rule: "A8", "A8token", "A4g32", "A8channelminmax"."""
        if self.grid is None:
            return "float"
        return grid_label(self.grid) + self.sharing.label + self._range_label()

    def _range_label(self) -> str:
        if isinstance(self.ranges, ActivationRange):
            return self.ranges.label
        name = "live" if self.sharing == PerTensor() else ""
        name += "" if self.ranges.clip == 1 else f"c{self.ranges.clip:g}"
        stored = self.ranges.scales
        return name + ("" if stored == Float32() else type(stored).__name__)

    @property
    def is_original(self) -> bool:
        return self.grid is None

    def effect(self, site: Site) -> Effect:
        if self.grid is None:
            return Effect()
        width, live = self.grid.width, isinstance(self.ranges, AtRunTime)
        group = max(self.sharing.group, 0) if live else 0
        return Effect(
            stored_bits=width, compute_bits=width, ranges=self._found(self.grid), group=group
        )

    def _found(self, grid: Grid) -> str:
        """How ranges are found, as a bill says it."""
        if self.ranges == AtRunTime() and isinstance(grid, Int):
            return GROUPS if self.sharing.group > 0 else LIVE
        one = self.sharing == PerTensor() and isinstance(self.ranges, ActivationRange)
        return FIXED if one and isinstance(grid, UInt) else OTHER

    def needs(self, site: Site, graph: Graph) -> tuple[Statistic, ...]:
        """Raises InputError where groups or parts do not fit the channels."""
        if self.grid is None:
            return ()
        dim, touch = channel_dim(site, graph), site.touches[0]
        self.sharing.units(_channels(site, dim), site.name)
        if isinstance(self.ranges, AtRunTime):
            return ()
        module, role = touch.module, touch.role
        if self.sharing != PerTensor():
            return (ChannelValues(module=module, role=role, dim=dim),)
        found: list[Statistic] = [Values(module=module, role=role)]
        if self.ranges.reads_tokens:
            found.append(TokenExtremes(module=module, role=role, dim=dim))
            found.append(ChannelValues(module=module, role=role, dim=dim))
        if self.ranges.reads_histogram:
            found.append(Histogram(module=module, role=role))
        return tuple(found)

    def apply(
        self, module: nn.Module, *, touch: Touch, site: Site, graph: Graph, stats: Stats
    ) -> nn.Module:
        """Raises DataError for calibration data that are not finite.

        One static range of unsigned integers gives the stand-in that `Activation` gives.
        """
        assert self.grid is not None
        dim = channel_dim(site, graph)
        if isinstance(self.ranges, AtRunTime):
            live = LiveQuantizer(
                grid=self.grid, ranges=self.ranges, dim=dim, group=self.sharing.group
            )
            return at_edge(module, touch.role, live)
        starts = self.sharing.units(_channels(site, dim), site.name)
        found = [self.ranges.fit(s, self.grid) for s in self._seen(site, graph, stats)]
        scale, zero = (torch.cat([f[k] for f in found]) for k in (0, 1))
        if isinstance(self.grid, UInt) and self.sharing == PerTensor():
            wrap = QuantizedInput if touch.role == "in" else QuantizedOutput
            return wrap(
                inner=module, scale=float(scale), zero_point=int(zero), bits=self.grid.width
            )
        if self.sharing != PerTensor():
            unit = torch.bucketize(
                torch.arange(_channels(site, dim)), torch.tensor(starts[1:]), right=True
            )
            kept = unit[_still_there(module, touch.role, len(unit))]
            scale, zero = scale[kept], zero[kept]
        device = stats[self.needs(site, graph)[0]].device
        scale, zero = scale.to(device), zero.to(device)
        static = StaticQuantizer(grid=self.grid, scale=scale, zero=zero, dim=dim)
        return at_edge(module, touch.role, static)

    def _seen(self, site: Site, graph: Graph, stats: Stats) -> list[Seen]:
        """What the rule reads, of units that lie side by side."""
        needed = self.needs(site, graph)
        states = {s: stats[s].cpu() for s in needed}
        for statistic, state in states.items():
            if not state.isfinite().all():
                raise DataError(not_finite(statistic))
        if self.sharing == PerTensor():
            return [seen_whole(states)]
        state = states[needed[0]]
        if self.sharing == PerChannel():
            return [_seen_channels(state)]
        starts = self.sharing.units(state.shape[2], site.name)
        return [
            _seen_together(state[:, :, a:b])
            for a, b in itertools.pairwise((*starts, state.shape[2]))
        ]


def grid_label(grid: Grid) -> str:
    """ "A8" for unsigned integers, "A8sym" for signed ones, else what the grid is called."""
    if isinstance(grid, UInt):
        return f"A{grid.width}"
    if isinstance(grid, Int):
        return f"A{grid.width}sym"
    if isinstance(grid, Minifloat):
        return f"E{grid.exponent}M{grid.mantissa}"
    return f"{type(grid).__name__}A{grid.width}"


def channel_dim(site: Site, graph: Graph) -> int:
    """Along which dim the channels of an activation lie: 1 where a convolution reads it, else -1,
    the last."""
    return 1 if any(graph.layer(m).op == "conv2d" for m in site.reach) else -1


def _channels(site: Site, dim: int) -> int:
    return site.shape[0 if dim == 1 else -1]


def seen_whole(states: Mapping[Statistic, Tensor]) -> Seen:
    """What is known of a tensor with one range, from statistics of which one is its values."""
    rows = next(x for s, x in states.items() if isinstance(s, Values))
    seen = Seen(
        values=rows[:, 2:].reshape(1, -1), low=rows[:, 0].min()[None], high=rows[:, 1].max()[None]
    )
    for statistic, state in states.items():
        if isinstance(statistic, TokenExtremes):
            seen = replace(seen, tokens=state)
        elif isinstance(statistic, ChannelValues):
            picks = state[:, 2:]
            tokens = picks.flatten(0, 1) if statistic.dim == -1 else picks.flatten(1)
            seen = replace(seen, rows=_some(tokens))
        elif isinstance(statistic, Histogram):
            centres, counts = bins(state)
            seen = replace(seen, centres=centres, counts=counts)
    return seen


def _some(rows: Tensor) -> Tensor:
    """At most 1024 of the rows, evenly spread."""
    at = torch.linspace(0, len(rows) - 1, min(len(rows), _ROWS), dtype=torch.float64)
    return rows[at.round().long()]


def _seen_channels(state: Tensor) -> Seen:
    """Channels with a range each: state of `ChannelValues` [n, 2 + picks, c]."""
    values = _some(state[:, 2:].flatten(0, 1)).T.contiguous()
    return Seen(values=values, low=state[:, 0].amin(0), high=state[:, 1].amax(0))


def _seen_together(state: Tensor) -> Seen:
    """Channels with one range."""
    values = state[:, 2:].reshape(1, -1)
    return Seen(values=values, low=state[:, 0].min()[None], high=state[:, 1].max()[None])


def _still_there(module: nn.Module, role: str, channels: int) -> Tensor:
    """Original channels that a layer or norm still has at an edge; all at other modules, whose
    quantizer refuses a tensor that has fewer."""
    while isinstance(module, OnGrid | QuantizedInput | QuantizedOutput):
        module = module.inner
    try:
        kept = positions(module, role)
    except PlanError:  # neither a layer nor a norm: it has no channels of its own
        return torch.arange(channels)
    return torch.tensor(kept)
