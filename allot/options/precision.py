"""Precision: how many bits a weight is stored in and a tensor between layers computes in."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from allot.errors import InputError
from allot.num.formats import Int, UInt, rowwise
from allot.num.gram import curvature
from allot.num.rounding import Gptq, Rounding
from allot.num.scales import row_scale, tensor_scale
from allot.option import Effect, Option, Statistic, Stats
from allot.options.narrow import kept_gram
from allot.options.standins import QuantizedInput, QuantizedLayer, QuantizedOutput
from allot.options.statistics import gram_of
from allot.site import Graph, Site, Touch
from allot.space import Choice, Space
from allot.target import Target

_PICKS = 512


@dataclass(frozen=True, kw_only=True)
class Weight(Option):
    """A weight stored in `bits` per element with one float32 scale per output channel.

    bits: 2 to 8, or 32 for the original.  A grid of up to 8 bits computes exactly in an int8
    kernel where the input is int8 too, and is expanded to float where it is not.
    """

    kind: ClassVar[str] = "weight"
    level: ClassVar[int] = 1
    bits: int
    rounding: Rounding = Gptq()  # noqa: RUF009 - frozen, shared by intent

    def __post_init__(self) -> None:
        _check_bits(self.bits, "a weight")

    @property
    def label(self) -> str:
        return "float" if self.is_original else f"W{self.bits}"

    @property
    def is_original(self) -> bool:
        return self.bits == 32

    def effect(self, site: Site) -> Effect:
        if self.is_original:
            return Effect()
        return Effect(stored_bits=self.bits, compute_bits=self.bits, row_bytes=4)

    def needs(self, site: Site, graph: Graph) -> tuple[Statistic, ...]:
        return () if self.is_original else (gram_of(graph.layer(site.touches[0].module)),)

    def apply(
        self, module: nn.Module, *, touch: Touch, site: Site, graph: Graph, stats: Stats
    ) -> nn.Module:
        gram = stats.get(gram_of(graph.layer(touch.module)))
        return self.encoded(module, gram=None if gram is None else kept_gram(module, gram))

    def encoded(self, module: nn.Module, *, gram: Tensor | None) -> QuantizedLayer:
        """The layer on its grid, codes chosen for inputs of second moment gram [g, k, k]."""
        if not isinstance(module, nn.Conv2d | nn.Linear):
            raise TypeError(f"a weight format needs a convolution or linear, got {type(module)}")
        fmt = Int(bits=self.bits)
        w = module.weight.detach()
        rows = w.reshape(w.shape[0], -1)
        scale = row_scale(rows, fmt, weight=curvature(rows, gram))
        codes = self.rounding.codes(rows, scale, fmt, gram)
        inner = copy.deepcopy(module)
        with torch.no_grad():
            inner.weight.copy_((codes * rowwise(scale, codes)).view_as(w))
        return QuantizedLayer(inner=inner, scale=scale, fmt=fmt)


def _check_bits(bits: int, of: str) -> None:
    if bits != 32 and not 2 <= bits <= 8:
        raise InputError(f"{of} has 2 to 8 bits, or 32 for the original; {bits} were given")


@dataclass(frozen=True, kw_only=True)
class Values(Statistic):
    """Smallest, largest and randomly picked values of every sample: state [n, 2 + picks].

    One row a sample, so the state does not depend on how the data were cut into batches.  Each
    sample gives one value of every stretch of its tensor, at places of its own: what lies at the
    same place in every sample (a class token, a border) is seen in its right share.
    """

    picks: int = _PICKS

    def update(self, state: Tensor | None, x: Tensor) -> Tensor:
        flat = x.detach().reshape(len(x), -1).float()
        first = 0 if state is None else len(state)
        picks = [self._places(first + i, flat.shape[1]) for i in range(len(flat))]
        picked = flat.gather(1, torch.stack(picks).to(flat.device))
        rows = torch.cat([flat.amin(1, True), flat.amax(1, True), picked], dim=1)
        return rows if state is None else torch.cat([state, rows])

    def _places(self, sample: int, size: int) -> Tensor:
        """One place in each of `picks` stretches of equal length, by the sample's number; all
        places of a tensor that has no more."""
        if size <= self.picks:
            return torch.arange(size)
        generator = torch.Generator().manual_seed(sample)
        along = torch.arange(self.picks) + torch.rand(
            self.picks, generator=generator, dtype=torch.float64
        )
        return (along * (size / self.picks)).long().clamp_max(size - 1)


@dataclass(frozen=True, kw_only=True)
class Activation(Option):
    """The tensor between layers in unsigned integers of `bits`, one static scale for the tensor.

    bits: 4, 6 or 8, or 32 for the original.  The range is the one of least squared error on the
    calibration data.
    """

    kind: ClassVar[str] = "activation"
    level: ClassVar[int] = 2
    bits: int

    def __post_init__(self) -> None:
        _check_bits(self.bits, "an activation")

    @property
    def label(self) -> str:
        return "float" if self.is_original else f"A{self.bits}"

    @property
    def is_original(self) -> bool:
        return self.bits == 32

    def effect(self, site: Site) -> Effect:
        bits = float(self.bits)
        return Effect(stored_bits=bits, compute_bits=bits)

    def needs(self, site: Site, graph: Graph) -> tuple[Statistic, ...]:
        touch = site.touches[0]
        return () if self.is_original else (Values(module=touch.module, role=touch.role),)

    def apply(
        self, module: nn.Module, *, touch: Touch, site: Site, graph: Graph, stats: Stats
    ) -> nn.Module:
        rows = stats[Values(module=touch.module, role=touch.role)]
        low, high = float(rows[:, 0].min()), float(rows[:, 1].max())
        scale, zero = tensor_scale(rows[:, 2:].reshape(-1), low, high, UInt(bits=self.bits))
        wrap = QuantizedInput if touch.role == "in" else QuantizedOutput
        return wrap(inner=module, scale=scale, zero_point=zero, bits=self.bits)


def space(graph: Graph, target: Target) -> Space:
    """Every weight stored in 2 to 8 bits or float, every tensor in what the target computes in.

    The original first, then from the most precise option to the least.
    """
    choices = []
    for site in graph.sites:
        if site.fixed or site.kind not in ("weight", "activation"):
            continue
        if site.kind == "weight":
            options: tuple[Option, ...] = tuple(Weight(bits=b) for b in (32, *range(8, 1, -1)))
        else:
            widths = sorted(target.activation_bits(), reverse=True)
            options = tuple(Activation(bits=b) for b in (32, *widths))
        tied = target.tied(site, graph)
        choices.append(Choice(site=site.name, options=options, tied=tied))
    return Space(graph=graph, choices=tuple(choices))
