"""Outlier axis: ranges shared along channels or along tokens, whichever of them outliers lie in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from allot.errors import DataError, InputError
from allot.num.affine import Range, covering
from allot.num.clusters import clustered, spread
from allot.num.formats import Grid
from allot.option import OTHER, Effect, Option, Statistic, Stats
from allot.options.quantizers import PlaceQuantizer, StaticQuantizer, at_edge
from allot.options.ranges_seen import not_finite
from allot.options.tensors import channel_dim, grid_label
from allot.site import Graph, Site, Touch


@dataclass(frozen=True, kw_only=True)
class AxisExtremes(Statistic):
    """Least and largest value of every channel, then of every place: state [2, channels + places].

    dim: of the channels, 1 or -1.  A place is a token or a pixel, the same one in every sample.
    Raises DataError where samples differ in their number of places.
    """

    dim: int

    def update(self, state: Tensor | None, x: Tensor) -> Tensor:
        x = x.detach().movedim(self.dim, -1)
        x = x.reshape(len(x), -1, x.shape[-1]).float()
        low = torch.cat([x.amin((0, 1)), x.amin((0, 2))])
        high = torch.cat([x.amax((0, 1)), x.amax((0, 2))])
        new = torch.stack([low, high])
        if state is None:
            return new
        if state.shape != new.shape:
            raise DataError(
                f"the tensor at {self.module} has {x.shape[1]} places in some samples and another "
                "number in others, so that none has a range of its own; give samples of one size"
            )
        return torch.stack([torch.minimum(state[0], new[0]), torch.maximum(state[1], new[1])])


@dataclass(frozen=True, kw_only=True)
class OutlierAxis(Option):
    """The tensor between layers on a grid, a static range for each of a few groups of channels or
    of tokens (pixels in images); None is the original (Ryu et al. 2025, DGQ).

    The axis is the one along which ranges differ more, all that calibration saw taken together;
    k-means puts its ranges into at most `groups`, and a group's range holds all in it.  Where a
    sample is one place, the axis is that of the channels.  Deviations: k-means starts at the
    outliers instead of at random; convolutions read pixels, where the authors range the patches.
    """

    kind: ClassVar[str] = "activation"
    level: ClassVar[int] = 2
    grid: Grid | None
    groups: int = 8

    def __post_init__(self) -> None:
        if self.groups < 1:
            raise InputError(f"ranges are put into at least one group, got {self.groups}")

    @property
    def label(self) -> str:
        return "float" if self.grid is None else f"{grid_label(self.grid)}axis{self.groups}"

    @property
    def is_original(self) -> bool:
        return self.grid is None

    def effect(self, site: Site) -> Effect:
        if self.grid is None:
            return Effect()
        return Effect(stored_bits=self.grid.width, compute_bits=self.grid.width, ranges=OTHER)

    def needs(self, site: Site, graph: Graph) -> tuple[Statistic, ...]:
        if self.grid is None:
            return ()
        touch = site.touches[0]
        dim = channel_dim(site, graph)
        return (AxisExtremes(module=touch.module, role=touch.role, dim=dim),)

    def apply(
        self, module: nn.Module, *, touch: Touch, site: Site, graph: Graph, stats: Stats
    ) -> nn.Module:
        """Raises DataError for calibration data that are not finite."""
        assert self.grid is not None
        (statistic,) = self.needs(site, graph)
        state, dim = stats[statistic], channel_dim(site, graph)
        if not state.isfinite().all():
            raise DataError(not_finite(statistic))
        channels, places = axes(state, site.shape[0 if dim == 1 else -1])
        along = along_places(channels, places)
        low, high = places if along else channels
        scale, zero = ranges(low, high, self.grid, self.groups)
        kind = PlaceQuantizer if along else StaticQuantizer
        return at_edge(module, touch.role, kind(grid=self.grid, scale=scale, zero=zero, dim=dim))


def axes(state: Tensor, channels: int) -> tuple[Tensor, Tensor]:
    """Ranges of channels [2, c] and of places [2, p] from a state of `AxisExtremes`."""
    return state[:, :channels], state[:, channels:]


def along_places(channels: Tensor, places: Tensor) -> bool:
    """Whether ranges [2, n] differ more from place to place than from channel to channel."""
    return spread(*places) > spread(*channels)


def ranges(low: Tensor, high: Tensor, grid: Grid, groups: int) -> Range:
    """Scale and zero point of every unit, one and the same in a group: [n] each."""
    group = clustered(low, high, groups)
    count = int(group.max()) + 1
    least = torch.stack([low[group == g].min() for g in range(count)])
    most = torch.stack([high[group == g].max() for g in range(count)])
    scale, zero = covering(least, most, grid)
    return scale[group], zero[group]
