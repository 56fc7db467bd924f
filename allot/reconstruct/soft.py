"""Soft codes: a layer whose codes are variables for a while, and hard again at the end."""

from __future__ import annotations

import copy
from abc import abstractmethod
from dataclasses import dataclass
from math import cos, pi
from typing import ClassVar

import torch
from torch import Tensor, nn

from allot.errors import InputError
from allot.num.formats import Encoded, Grid
from allot.options.format_layer import FormatLayer
from allot.options.standins import OnGrid, shallow
from allot.part import Part

# AdaRound's stretch of the sigmoid, so that 0 and 1 are reached (Louizos et al. 2018)
_LOW, _HIGH = -0.1, 1.1
# a free code starts at most this far into the half of its cell: at the border it would flicker
_WITHIN = 0.9


@dataclass(frozen=True, kw_only=True, eq=False)
class Frame:
    """weight rows = (value - zero) * scale + offset, all [out, k] or broadcast to it.

    grid: what values are taken from.  scale: with any gain.  offset: a low-rank part, or 0.
    """

    grid: Grid
    scale: Tensor
    zero: Tensor
    offset: Tensor

    def units(self, rows: Tensor) -> Tensor:
        """Weight rows in units of the grid."""
        return (rows - self.offset) / self.scale + self.zero

    def rows(self, values: Tensor) -> Tensor:
        """Weight rows of values in units of the grid."""
        return (values - self.zero) * self.scale + self.offset


def frame(layer: OnGrid, encoded: Encoded) -> Frame:
    """How the weight of a stand-in follows from the values of its codes."""
    k = encoded.codes.shape[1]
    scale = encoded.format.spread(encoded.scale, k)
    zero = offset = scale.new_zeros(())
    if encoded.zero is not None:
        zero = encoded.format.spread(encoded.zero, k)
    if isinstance(layer, FormatLayer):
        scale = scale if layer.gain is None else scale * layer.gain[:, None]
        if layer.up is not None and layer.down is not None:
            offset = layer.up @ layer.down
    return Frame(grid=encoded.format.grid, scale=scale, zero=zero, offset=offset)


class Soft(OnGrid):
    """Stands in for a layer on a grid whose codes are being learned.

    inner: the layer with a bias of its own.  variable: [out, k].
    """

    def __init__(self, layer: OnGrid, frame: Frame, start: Tensor) -> None:
        nn.Module.__init__(self)
        self.layer, self.frame = [layer], frame  # a list: nothing of it is a parameter of this
        self.inner = shallow(layer.inner)
        self.variable = nn.Parameter(start)

    @property
    def weight(self) -> Tensor:
        return self.frame.rows(self.values()).view_as(self.inner.weight)

    @abstractmethod
    def values(self) -> Tensor:
        """What the weight is for now, in units of the grid: [out, k]."""

    @abstractmethod
    def codes(self) -> Tensor:
        """The codes that were found: [out, k]."""

    def undecided(self, share: float) -> Tensor:
        """What is added to the loss for values off the grid; share of all steps that is done."""
        return self.variable.new_zeros(())

    def hard(self) -> OnGrid:
        """A copy of the stand-in with the codes that were found, and the bias."""
        with torch.no_grad():
            rows = self.frame.rows(self.frame.grid.values(self.codes()))
            new, inner = copy.copy(self.layer[0]), shallow(self.inner)
            inner._parameters = {
                n: None if p is None else nn.Parameter(p.detach().clone(), requires_grad=False)
                for n, p in self.inner._parameters.items()
            }
            inner._parameters["weight"] = nn.Parameter(
                rows.view_as(self.inner.weight).clone(), requires_grad=False
            )
        new._modules = {**self.layer[0]._modules, "inner": inner}
        return new


class LearnedRounding(Part):
    """How codes are made variables.

    rate: of Adam, in units of what is learned.  falling: whether it falls to 0 along a cosine.
    """

    rate: float
    falling: ClassVar[bool] = True

    @abstractmethod
    def soft(self, layer: OnGrid, w: Tensor) -> Soft:
        """The layer with variable codes that start at its own; w: its weight before rounding."""


@dataclass(frozen=True, kw_only=True)
class SoftRounding(LearnedRounding):
    """Every weight between two neighbours of its grid, by a stretched sigmoid (AdaRound, Nagel et
    al. 2020).

    The two are the code it has and the one beyond it on the side of the unrounded weight; the
    authors take those on both sides of the weight, which codes of error-compensating rounding may
    not be among.  It starts at the unrounded weight, but no further from its code than `margin` of
    the way.  pull: weight of what drives values to one end, relative to the loss before (the mean
    over weights of 1 - |2h - 1|^b; theirs is a sum, times 0.01).  warm: share of the steps without
    it; b then falls from sharp[0] to sharp[1] along a cosine.
    """

    falling: ClassVar[bool] = False
    rate: float = 0.1
    pull: float = 3.0
    warm: float = 0.2
    sharp: tuple[float, float] = (20.0, 2.0)
    margin: float = 0.3

    def __post_init__(self) -> None:
        _check_rate(self.rate)
        if not 0 <= self.warm < 1 or self.pull < 0:
            raise InputError(
                f"warm is a share from 0 up to 1 and pull not below 0; got {self.warm}, {self.pull}"
            )
        if not 0.01 < self.margin < 0.5:
            raise InputError(f"margin lies between 0.01 and 0.5; {self.margin} was given")

    def soft(self, layer: OnGrid, w: Tensor) -> Soft:
        return _Sigmoid(layer, w, self)


class _Sigmoid(Soft):
    """Values between two neighbours."""

    def __init__(self, layer: OnGrid, w: Tensor, rounding: SoftRounding) -> None:
        encoded = layer.encoded()
        found, codes = frame(layer, encoded), encoded.codes
        grid, x = found.grid, found.units(w.flatten(1))
        up = (x >= grid.values(codes)) & (codes < grid.hi) | (codes <= grid.lo)
        lower = torch.where(up, codes, codes - 1)
        low = grid.values(lower)
        step = grid.values(lower + 1) - low
        least = torch.where(lower == codes, 0.01, 1 - rounding.margin)
        most = torch.where(lower == codes, rounding.margin, 0.99)
        share = ((x - low) / step).clamp(least, most)
        start = torch.logit((share - _LOW) / (_HIGH - _LOW))
        Soft.__init__(self, layer, found, start)
        self.lower, self.low, self.step, self.rounding = lower, low, step, rounding

    def share(self) -> Tensor:
        """How far every value is on its way up: [out, k] in 0..1."""
        return (torch.sigmoid(self.variable) * (_HIGH - _LOW) + _LOW).clamp(0, 1)

    def values(self) -> Tensor:
        return self.low + self.share() * self.step

    def codes(self) -> Tensor:
        return self.lower + (self.share() >= 0.5)

    def undecided(self, share: float) -> Tensor:
        r = self.rounding
        if share < r.warm:
            return self.variable.new_zeros(())
        done = (share - r.warm) / (1 - r.warm)
        power = r.sharp[1] + (r.sharp[0] - r.sharp[1]) * (1 + cos(pi * done)) / 2
        return r.pull * (1 - (2 * self.share() - 1).abs().pow(power)).mean()


@dataclass(frozen=True, kw_only=True)
class FreeRounding(LearnedRounding):
    """Continuous weights, rounded to nearest at every step with the gradient passed straight
    through, so that codes move over the whole grid (AdaQuant, Hubara et al. 2021; NUPES, Yvinec et
    al. 2024).

    They start at the unrounded weights, each moved into the cell of the code it has.  rate: in
    units of the grid.
    """

    rate: float = 0.03

    def __post_init__(self) -> None:
        _check_rate(self.rate)

    def soft(self, layer: OnGrid, w: Tensor) -> Soft:
        return Free(layer, w)


class Free(Soft):
    """Values that are rounded at every step."""

    def __init__(self, layer: OnGrid, w: Tensor) -> None:
        encoded = layer.encoded()
        found, codes = frame(layer, encoded), encoded.codes
        grid, x = found.grid, found.units(w.flatten(1))
        value = grid.values(codes)
        down = (value - grid.values((codes - 1).clamp(min=grid.lo))) / 2
        up = (grid.values((codes + 1).clamp(max=grid.hi)) - value) / 2
        start = value + (x - value).clamp(-_WITHIN * down, _WITHIN * up)
        Soft.__init__(self, layer, found, start)

    def place(self) -> Tensor:
        """Values before they are rounded: [out, k]."""
        return self.variable

    def values(self) -> Tensor:
        x = self.place().clamp(*self.frame.grid.reach)
        return x + (self.frame.grid.values(self.frame.grid.nearest(x)) - x).detach()

    def codes(self) -> Tensor:
        return self.frame.grid.nearest(self.place().detach())


def _check_rate(rate: float) -> None:
    if not rate > 0:
        raise InputError(f"a learning rate is above 0; {rate} was given")
