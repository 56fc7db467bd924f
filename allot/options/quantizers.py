"""Quantizers: modules that put a tensor on a grid, and the wrappers that hold them at an edge.

The gradient passes straight through inside the range and is 0 outside (Bengio et al. 2013);
scales and zero points get none.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from allot.errors import PlanError
from allot.num.affine import ends, rounded
from allot.num.formats import Grid
from allot.num.live_ranges import AtRunTime
from allot.options.standins import QuantizedInput, QuantizedOutput
from allot.sampling.bound import bound_step
from allot.sampling.moment import Moment


class _Through(torch.autograd.Function):
    """Nearest values forward, the identity inside the range backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, zero: Tensor, grid: Grid) -> Tensor:
        if ctx.needs_input_grad[0]:
            low, high = ends(scale, zero, grid)
            ctx.save_for_backward((x >= low) & (x <= high))
        return rounded(x.float(), scale, zero, grid).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (inside,) = ctx.saved_tensors
        return grads[0] * inside, None, None, None


class Quantizer(nn.Module):
    """Any tensor -> one of the same shape on a grid."""

    grid: Grid


class FixedQuantizer(Quantizer):
    """Ranges that were fixed beforehand, one for the tensor or for every unit: scale, zero [n].

    dim: of the channels, 1 or -1.
    """

    scale: Tensor
    zero: Tensor

    def __init__(self, *, grid: Grid, scale: Tensor, zero: Tensor, dim: int) -> None:
        nn.Module.__init__(self)
        self.grid, self.dim = grid, dim
        self.register_buffer("scale", scale.detach().clone().float())
        self.register_buffer("zero", zero.detach().clone().float())

    def ranges(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point in a shape that broadcasts with x.

        Raises PlanError for a tensor with another number of units.
        """
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = _Through.apply(x, *self.ranges(x), self.grid)
        return out


class StaticQuantizer(FixedQuantizer):
    """One range, or one for every channel along `dim`.

    Channels that were joined from several tensors have equal entries where they come from one.
    """

    def ranges(self, x: Tensor) -> tuple[Tensor, Tensor]:
        n = len(self.scale)
        if n == 1:
            return self.scale, self.zero
        if n != x.shape[self.dim]:
            raise PlanError(
                f"a tensor of {x.shape[self.dim]} channels meets ranges for {n}; where channels "
                "are removed behind this edge, one range for the whole tensor would do"
            )
        shape = [1] * x.dim()
        shape[self.dim] = n
        return self.scale.view(shape), self.zero.view(shape)


class PlaceQuantizer(FixedQuantizer):
    """One range for every token or pixel, whatever the channel."""

    def ranges(self, x: Tensor) -> tuple[Tensor, Tensor]:
        shape = list(x.shape)
        shape[0] = shape[self.dim] = 1
        if math.prod(shape) != len(self.scale):
            raise PlanError(
                f"a tensor of {math.prod(shape)} places meets ranges for {len(self.scale)}; where "
                "tokens are removed before this edge, one range for the whole tensor would do"
            )
        return self.scale.view(shape), self.zero.view(shape)


class LiveQuantizer(Quantizer):
    """Ranges of every unit from the tensor itself, when it comes.

    dim: of the channels, 1 (then a token is a whole sample) or -1.  group: channels of a token
    that share a range, 0 for all of them, -1 for all of a sample.
    """

    def __init__(self, *, grid: Grid, ranges: AtRunTime, dim: int, group: int) -> None:
        nn.Module.__init__(self)
        self.grid, self.ranges, self.dim, self.group = grid, ranges, dim, group

    def forward(self, x: Tensor) -> Tensor:
        rows = x.detach().reshape(-1, self.size(x))
        scale, zero = self.ranges.fit(rows, self.grid, samples=len(x))
        shaped = x.reshape(rows.shape)
        out: Tensor = _Through.apply(shaped, scale[:, None], zero[:, None], self.grid)
        return out.view(x.shape)

    def size(self, x: Tensor) -> int:
        """How many values, one after the other, share a range."""
        channels, sample = x.shape[self.dim], x[0].numel()
        whole = sample if self.dim == 1 else channels
        if self.group < 0:
            return sample
        if self.group == 0:
            return whole
        if channels % self.group:
            raise PlanError(f"groups of {self.group} meet a tensor of {channels} channels")
        return self.group * (whole // channels)


class SteppedQuantizer(Quantizer):
    """A range of its own at every step of a sampler: scale, zero, times [steps].

    times: what the network is told at each step.  The moment says which range holds; outside of
    one nothing is rounded.
    """

    scale: Tensor
    zero: Tensor
    times: Tensor

    def __init__(self, *, grid: Grid, scale: Tensor, zero: Tensor, times: Tensor) -> None:
        nn.Module.__init__(self)
        self.grid = grid
        self.step: int | None = None
        self.register_buffer("scale", scale.detach().clone().float())
        self.register_buffer("zero", zero.detach().clone().float())
        self.register_buffer("times", times.detach().clone().double())

    def at(self, moment: Moment | None) -> None:
        """Raises PlanError for a step of other steps than the ranges were found for."""
        self.step = None if moment is None else bound_step(self.times, moment, what="ranges were")

    def forward(self, x: Tensor) -> Tensor:
        if self.step is None:
            return x
        at = slice(self.step, self.step + 1)
        out: Tensor = _Through.apply(x, self.scale[at], self.zero[at], self.grid)
        return out


class _Formatted(nn.Module):
    """`inner` with a quantizer at one of its boundaries."""

    def __init__(self, *, inner: nn.Module, quantizer: Quantizer) -> None:
        nn.Module.__init__(self)
        self.inner, self.quantizer = inner, quantizer

    def quantize(self, x: Tensor) -> Tensor:
        out: Tensor = self.quantizer(x)
        return out


class FormattedInput(_Formatted, QuantizedInput):
    """`inner` after its first input went through a quantizer."""


class FormattedOutput(_Formatted, QuantizedOutput):
    """`inner` whose output goes through a quantizer."""


def at_edge(inner: nn.Module, role: str, quantizer: Quantizer) -> nn.Module:
    """`inner` with a quantizer at its input ("in") or output ("out")."""
    wrap = FormattedInput if role == "in" else FormattedOutput
    return wrap(inner=inner, quantizer=quantizer)
