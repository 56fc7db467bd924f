"""Stand-ins: modules that take a layer's place and compute what its cheap form will compute."""

from __future__ import annotations

import copy
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from allot.num.formats import Encoded, Format, Int, UInt, decode, encode, rowwise
from allot.option import Coded
from allot.part import Part

_M = TypeVar("_M", bound=nn.Module)


class _RoundThrough(torch.autograd.Function):
    """Nearest codes forward, the identity inside the grid backward (Bengio et al. 2013)."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, scale: Tensor, lo: int, hi: int) -> Tensor:
        x = w / rowwise(scale, w)
        ctx.save_for_backward((x >= lo - 0.5) & (x <= hi + 0.5))
        return x.round().clamp(lo, hi) * rowwise(scale, w)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (inside,) = ctx.saved_tensors
        return grads[0] * inside, None, None, None


def shallow(module: _M) -> _M:
    """A module of the same tensors whose parameters can be replaced one by one."""
    new = copy.copy(module)
    new._parameters, new._buffers = dict(module._parameters), dict(module._buffers)
    return new


def inner_attribute(module: nn.Module, name: str) -> Any:
    """What a module around `inner` has itself under a name, else what `inner` has.

    For a `__getattr__`: a network's forward may look at attributes of its modules.  Raises
    AttributeError.
    """
    for kind in ("_parameters", "_buffers", "_modules"):
        if name in module.__dict__.get(kind, {}):
            return module.__dict__[kind][name]
    inner = module.__dict__.get("_modules", {}).get("inner")
    # how it is copied or stored is its own affair, also before it has anything inside
    if inner is None or name.startswith("__"):
        raise AttributeError(f"{type(module).__name__!r} object has no attribute {name!r}")
    return getattr(inner, name)


class OnGrid(nn.Module):
    """A convolution or linear whose weight is always on a grid; trainable straight-through.

    inner: the layer with float weights (on the grid until someone trains them); what it has
    besides can be read here.
    """

    inner: nn.Conv2d | nn.Linear

    def __getattr__(self, name: str) -> Any:
        return inner_attribute(self, name)

    @property
    def weight(self) -> Tensor:
        """The weight it computes with."""
        raise NotImplementedError

    def encoded(self) -> Encoded:
        """The weight as a matrix [out, k] in codes."""
        raise NotImplementedError

    def affine(self, gain: Tensor, shift: Tensor) -> OnGrid:
        """The same codes with output gain * y + shift, both [out]; needs a bias to carry shift."""
        raise NotImplementedError

    def become_(self, other: OnGrid) -> None:
        """Takes over the weight of another stand-in of the same layer and kind, in place."""
        with torch.no_grad():
            self.inner.weight.copy_(other.inner.weight)
        self._buffers |= other._buffers
        vars(self).update({k: v for k, v in vars(other).items() if isinstance(v, Part)})

    def forward(self, x: Tensor) -> Tensor:
        if isinstance(self.inner, nn.Linear):
            return nn.functional.linear(x, self.weight, self.inner.bias)
        return self.inner._conv_forward(x, self.weight, self.inner.bias)


class QuantizedLayer(OnGrid):
    """A layer in integers of few bits with one scale per output channel: scale [out], signed."""

    def __init__(self, *, inner: nn.Conv2d | nn.Linear, scale: Tensor, fmt: Int) -> None:
        nn.Module.__init__(self)
        self.inner = inner
        self.fmt = fmt
        self.scale: Tensor
        self.register_buffer("scale", scale.detach().clone().float())

    @property
    def weight(self) -> Tensor:
        """The weight it computes with, on the grid."""
        return _RoundThrough.apply(self.inner.weight, self.scale, self.fmt.lo, self.fmt.hi)

    def codes(self) -> Tensor:
        """Integer codes like the weight, as float."""
        return encode(self.inner.weight.detach(), self.scale, self.fmt)

    def encoded(self) -> Encoded:
        """The weight as a matrix [out, k] in codes."""
        return Encoded(
            format=Format(grid=self.fmt), codes=self.codes().flatten(1), scale=self.scale[:, None]
        )

    def affine(self, gain: Tensor, shift: Tensor) -> QuantizedLayer:
        """The same codes with output gain * y + shift, both [out]; needs a bias to carry shift."""
        inner, scale, old = shallow(self.inner), self.scale * gain, self.inner.bias
        bias = shift if old is None else old.detach() * gain + shift
        inner._parameters["weight"] = nn.Parameter(decode(self.codes(), scale))
        inner._parameters["bias"] = nn.Parameter(bias.clone())
        inner.weight.requires_grad_(self.inner.weight.requires_grad)
        return QuantizedLayer(inner=inner, scale=scale, fmt=self.fmt)

    def coded(self, gain: Tensor, shift: Tensor) -> Coded:
        """What is stored when y = gain * x + shift, both [out], is folded in."""
        bias = shift if self.inner.bias is None else shift + gain * self.inner.bias.detach()
        return Coded(
            layer=self.inner,
            codes=self.codes().to(torch.int8),
            scale=self.scale * gain,
            bias=bias,
            bits=self.fmt.bits,
        )


class _Edge(nn.Module):
    """Quantizes a tensor at the boundary of `inner`, one scale for the whole tensor.

    What `inner` has can be read here too.
    """

    is_wrapper: ClassVar[bool] = True

    def __init__(self, *, inner: nn.Module, scale: float, zero_point: int, bits: int) -> None:
        nn.Module.__init__(self)
        self.inner = inner
        self.scale, self.zero_point, self.bits = scale, zero_point, bits

    def __getattr__(self, name: str) -> Any:
        return inner_attribute(self, name)

    def quantize(self, x: Tensor) -> Tensor:
        return torch.fake_quantize_per_tensor_affine(
            x, self.scale, self.zero_point, 0, UInt(bits=self.bits).hi
        )


class QuantizedInput(_Edge):
    """`inner` after its first input was quantized."""

    def forward(self, x: Tensor, *rest: Any, **named: Any) -> Any:
        return self.inner(self.quantize(x), *rest, **named)


class QuantizedOutput(_Edge):
    """`inner` whose output is quantized."""

    def forward(self, *inputs: Any, **named: Any) -> Any:
        return self.quantize(self.inner(*inputs, **named))
