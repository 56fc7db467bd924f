"""Loose quantizers: a tensor quantized here and left float there while its block is learned."""

from __future__ import annotations

import copy
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from allot.num.formats import UInt
from allot.options.standins import QuantizedInput, QuantizedOutput, inner_attribute
from allot.reconstruct.draw import drawn


class _Stretched(torch.autograd.Function):
    """A tensor quantized by a wrapper whose step is its own times exp(stretch).

    Inside the range an element has its gradient and the stretch that of what rounding did to it;
    outside it the element has none and the stretch that of the value it is clipped to (Esser et al.
    2020, eq. 3, times the step).  One pass over the tensor in each direction, where the same
    written with torch's own functions takes eight.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, stretch: Tensor, edge: QuantizedInput | QuantizedOutput
    ) -> Tensor:
        step = edge.scale * float(stretch.exp())
        y, inside = torch.ops.aten.fake_quantize_per_tensor_affine_cachemask(
            x, step, edge.zero_point, 0, UInt(bits=edge.bits).hi
        )
        ctx.save_for_backward(x, y, inside)
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, y, inside = ctx.saved_tensors
        within = grads[0] * inside
        pull = torch.sum(grads[0] * y) - torch.sum(within * x)
        return within, pull, None


class Loose(nn.Module):
    """In place of a wrapper that quantizes a tensor at the boundary of `inner`.

    Each element stays float with probability `drop`, drawn anew at every call from the generator
    (QDrop, Wei et al. 2022).  With `learned`, the step of a wrapper of one static scale is a
    variable: its logarithm over the step it had, with the gradient of Esser et al. (2020), unscaled
    since Adam does not see scale.
    """

    is_wrapper: ClassVar[bool] = True

    def __init__(
        self,
        edge: QuantizedInput | QuantizedOutput,
        inner: nn.Module,
        *,
        drop: float,
        learned: bool,
        generator: torch.Generator,
    ) -> None:
        nn.Module.__init__(self)
        self.edge = [edge]  # a list: its parameters are not this module's
        self.inner, self.drop, self.generator = inner, drop, generator
        self.learned = learned and is_static(edge)
        # a wrapper inside has one too, which torch would take for this one's
        self._parameters["stretch"] = nn.Parameter(torch.zeros(()))

    def __getattr__(self, name: str) -> Any:
        return inner_attribute(self, name)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        if isinstance(self.edge[0], QuantizedInput):
            return self.inner(self._loosened(inputs[0]), *inputs[1:], **named)
        return self._loosened(self.inner(*inputs, **named))

    def _loosened(self, x: Tensor) -> Tensor:
        if self.drop >= 1:
            return x
        y = self._quantized(x)
        if self.drop <= 0:
            return y
        left = drawn(x.shape, self.drop, self.generator)
        return torch.where(left.to(x.device), x, y)

    def _quantized(self, x: Tensor) -> Tensor:
        edge = self.edge[0]
        if not self.learned:
            return edge.quantize(x)
        y: Tensor = _Stretched.apply(x, self.stretch, edge)
        return y

    def hard(self, inner: nn.Module) -> nn.Module:
        """The wrapper as it was, with the step that was found, around `inner`."""
        edge = around(self.edge[0], inner)
        if self.learned:
            edge.scale = self.edge[0].scale * float(self.stretch.detach().exp())  # type: ignore
        return edge


def is_static(edge: QuantizedInput | QuantizedOutput) -> bool:
    """Whether a wrapper quantizes a tensor by one scale that it knows beforehand."""
    return type(edge) in (QuantizedInput, QuantizedOutput)


def around(wrapper: nn.Module, inner: nn.Module) -> nn.Module:
    """A copy of one wrapper around another module."""
    new = copy.copy(wrapper)
    new._modules = {**wrapper._modules, "inner": inner}
    return new
