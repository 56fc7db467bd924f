"""Deployed: modules that hold what is stored of a layer and compute what the exported file does."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allot.errors import ModelError
from allot.num.formats import Encoded, rowwise
from allot.num.lowrank import half
from allot.option import Coded
from allot.options.standins import inner_attribute


class Placed(nn.Module):
    """A convolution or linear without parameters of its own: where and how it multiplies.

    roles: the tensors that stand for its weight in the exported graph.
    """

    op: str
    roles: tuple[str, ...] = ("weight",)

    def place(self, layer: nn.Conv2d | nn.Linear) -> None:
        """Takes stride, padding, dilation and groups over, in place; refuses padding modes."""
        self.op = "linear"
        if isinstance(layer, nn.Conv2d):
            if layer.padding_mode != "zeros":
                raise ModelError(
                    f"padding mode {layer.padding_mode!r} cannot be exported; zeros can"
                )
            self.op = "conv2d"
            self.stride, self.padding = layer.stride, layer.padding
            self.dilation, self.groups = layer.dilation, layer.groups

    def multiply(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if self.op == "linear":
            return F.linear(x, weight, bias)
        return F.conv2d(x, weight, bias, self.stride, self.padding, self.dilation, self.groups)


class FloatLayer(Placed):
    """A convolution or linear in float with its norm folded: weight [out, ...], bias [out]."""

    weight: Tensor
    bias: Tensor | None

    def __init__(
        self, layer: nn.Conv2d | nn.Linear, *, weight: Tensor, bias: Tensor | None
    ) -> None:
        nn.Module.__init__(self)
        self.place(layer)
        self.register_buffer("weight", weight.detach().float().contiguous())
        self.register_buffer("bias", None if bias is None else bias.detach().float().contiguous())

    def forward(self, x: Tensor) -> Tensor:
        return self.multiply(x, self.weight, self.bias)


class FormattedLayer(FloatLayer):
    """A layer stored on a format and expanded to a float weight on load.

    encoded: codes [out, k] and scales.  gain [out] or None; up [out, r], down [r, k] in half
    precision, or None: the weight is values * gain + up down.
    """

    def __init__(
        self,
        layer: nn.Conv2d | nn.Linear,
        *,
        encoded: Encoded,
        gain: Tensor | None,
        up: Tensor | None,
        down: Tensor | None,
        bias: Tensor | None,
    ) -> None:
        gain = None if gain is None else gain.detach().float()
        factors = () if up is None or down is None else (half(up), half(down))
        weight = expanded(encoded, gain, factors).view_as(layer.weight)
        FloatLayer.__init__(self, layer, weight=weight, bias=bias)
        self.encoded, self.gain, self.factors = encoded, gain, factors

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the weight: [out, ...]."""
        return tuple(self.weight.shape)


def expanded(encoded: Encoded, gain: Tensor | None, factors: Sequence[Tensor]) -> Tensor:
    """The weight [out, k] that is stored as codes, gain [out] and factors (up, down)."""
    rows = encoded.values()
    rows = rows if gain is None else rows * gain[:, None]
    return rows + factors[0] @ factors[1] if factors else rows


class CodedLayer(Placed):
    """A layer stored as integer codes: codes int8 [out, ...], scale f32 [out] > 0, bias f32 [out].

    bits: 2 to 8, of a stored code.  Scales of the plan may be negative; here the sign has moved
    into the codes, which then lie in -2^(bits-1) .. 2^(bits-1).
    """

    codes: Tensor
    scale: Tensor
    bias: Tensor | None
    roles: tuple[str, ...] = ("codes", "scale")

    def __init__(self, coded: Coded, *, bias: Tensor | None) -> None:
        nn.Module.__init__(self)
        self.place(coded.layer)
        self.bits = coded.bits
        codes, scale = positive(coded.codes, coded.scale.detach().float())
        self.register_buffer("codes", codes.contiguous())
        self.register_buffer("scale", scale.contiguous())
        self.register_buffer("bias", None if bias is None else bias.detach().float().contiguous())

    def values(self) -> Tensor:
        """The weight that the codes stand for, float32."""
        return self.codes.float() * rowwise(self.scale, self.codes)


class DeployedLayer(CodedLayer):
    """A coded layer that computes from its codes: dequantized per channel in the exported graph."""

    def __init__(self, coded: Coded, *, bias: Tensor | None) -> None:
        CodedLayer.__init__(self, coded, bias=bias)
        self.register_buffer(
            "zero", torch.zeros_like(self.codes[:, 0].flatten()[: len(self.scale)])
        )
        self.zero: Tensor

    @property
    def weight(self) -> Tensor:
        """The weight it computes with; a network's own forward may look at it too."""
        found: Tensor = _decomposed().dequantize_per_channel(
            self.codes, self.scale, self.zero, 0, -128, 127, torch.int8
        )
        return found

    def forward(self, x: Tensor) -> Tensor:
        return self.multiply(x, self.weight, self.bias)


class ExpandedLayer(CodedLayer):
    """A coded layer that computes in float: stored packed, expanded to a float weight on load."""

    weight: Tensor
    roles = ("weight",)

    def __init__(self, coded: Coded, *, bias: Tensor | None) -> None:
        CodedLayer.__init__(self, coded, bias=bias)
        self.register_buffer("weight", self.values())

    def forward(self, x: Tensor) -> Tensor:
        return self.multiply(x, self.weight, self.bias)


class ScaleShift(nn.Module):
    """A batch norm that no layer takes in, as scale * x + shift per channel: both [channels]."""

    scale: Tensor
    shift: Tensor

    def __init__(self, *, scale: Tensor, shift: Tensor) -> None:
        nn.Module.__init__(self)
        self.register_buffer("scale", scale)
        self.register_buffer("shift", shift)

    def forward(self, x: Tensor) -> Tensor:
        shape = [1, -1, *[1] * (x.dim() - 2)]
        return x * self.scale.view(shape) + self.shift.view(shape)


class EdgeQuant(nn.Module):
    """Quantizes and dequantizes the tensor at one boundary of `inner`: role "in" or "out".

    Unsigned codes of `bits`, one scale and zero point for the tensor. Codes are 8 bit in the
    exported graph; fewer bits are a clamp to the range that those codes reach.  What `inner` has
    can be read here too.
    """

    is_wrapper: ClassVar[bool] = True

    def __init__(
        self, inner: nn.Module, *, role: str, scale: float, zero_point: int, bits: int
    ) -> None:
        nn.Module.__init__(self)
        self.inner, self.role = inner, role
        self.scale, self.zero_point, self.bits = scale, zero_point, bits

    def __getattr__(self, name: str) -> Any:
        return inner_attribute(self, name)

    def quantize(self, x: Tensor) -> Tensor:
        if self.bits < 8:
            low, high = -self.zero_point, 2**self.bits - 1 - self.zero_point
            x = x.clamp(low * self.scale, high * self.scale)
        ops = _decomposed()
        grid = (self.scale, self.zero_point, 0, 255, torch.uint8)
        return ops.dequantize_per_tensor(ops.quantize_per_tensor(x, *grid), *grid)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        if self.role == "in":
            return self.inner(self.quantize(inputs[0]), *inputs[1:], **named)
        return self.quantize(self.inner(*inputs, **named))


def _decomposed() -> Any:
    """The operators that are exported as QuantizeLinear and DequantizeLinear, registered."""
    import torch.ao.quantization.fx._decomposed

    return torch.ops.quantized_decomposed


def positive(codes: Tensor, scale: Tensor) -> tuple[Tensor, Tensor]:
    """The same values with scales above 0: codes int8 [out, ...], scale [out] of any sign.

    codes * scale is unchanged in every bit; rows of scale 0 become codes 0 with scale 1.
    Raises ModelError where a code cannot change its sign (-128).
    """
    sign = torch.where(scale < 0, -1, 1).to(torch.int8)
    if bool(((codes == -128) & (rowwise(sign, codes) < 0)).any()):
        raise ModelError("a code of -128 with a negative scale has no positive form in int8")
    codes = codes * rowwise(sign * (scale != 0), codes)
    return codes.to(torch.int8), torch.where(scale == 0, torch.ones_like(scale), scale.abs())
