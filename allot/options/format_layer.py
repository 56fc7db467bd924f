"""Format layer: the stand-in of a layer whose weight is stored on any format."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from allot.num.formats import Encoded, Format
from allot.options.standins import OnGrid, shallow


class _NearestThrough(torch.autograd.Function):
    """Nearest value of a grid forward, the identity within its reach backward."""

    @staticmethod
    def forward(ctx: Any, w: Tensor, scale: Tensor, zero: Tensor, format: Format) -> Tensor:
        grid, x = format.grid, w / scale + zero
        low, high = grid.reach
        ctx.save_for_backward((x >= low - 0.5) & (x <= high + 0.5))
        return (grid.values(grid.nearest(x)).to(w) - zero) * scale

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (inside,) = ctx.saved_tensors
        return grads[0] * inside, None, None, None


class FormatLayer(OnGrid):
    """A convolution or linear whose weight matrix [out, k] is on a format, row by row times a gain.

    scale, zero: [out or 1, groups], zero None without zero points.  gain: [out], or None where it
    is all ones: what norms and corrections multiply, for scales that cannot take it in (a power of
    two times 1.3 is none).  up [out, r], down [r, k]: a low-rank part added to the weight, or None.
    """

    def __init__(
        self,
        *,
        inner: nn.Conv2d | nn.Linear,
        format: Format,
        scale: Tensor,
        zero: Tensor | None = None,
        gain: Tensor | None = None,
        up: Tensor | None = None,
        down: Tensor | None = None,
    ) -> None:
        nn.Module.__init__(self)
        self.inner, self.format = inner, format
        self.scale: Tensor
        self.zero: Tensor | None
        self.gain: Tensor | None
        self.up: Tensor | None
        self.down: Tensor | None
        for name, x in (("scale", scale), ("zero", zero), ("gain", gain), ("up", up),
                        ("down", down)):  # fmt: skip
            self.register_buffer(name, None if x is None else x.detach().clone().float())

    @property
    def weight(self) -> Tensor:
        """The weight it computes with."""
        w = self.inner.weight
        rows = w.reshape(w.shape[0], -1)
        scale, zero = self._spread(rows)
        found = _NearestThrough.apply(self._coded(rows), scale, zero, self.format)
        found = found if self.gain is None else found * self.gain[:, None]
        if self.up is not None and self.down is not None:
            found = found + self.up @ self.down
        return found.view_as(w)

    def _coded(self, rows: Tensor) -> Tensor:
        """The part of rows [out, k] that codes stand for: without low rank and gain."""
        if self.up is not None and self.down is not None:
            rows = rows - self.up @ self.down
        return rows if self.gain is None else rows / self.gain[:, None]

    def _spread(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """Scale and zero point of every element of rows [out, k]."""
        k = rows.shape[1]
        scale = self.format.spread(self.scale, k).expand_as(rows)
        if self.zero is None:
            return scale, torch.zeros((), device=rows.device)
        return scale, self.format.spread(self.zero, k).expand_as(rows)

    def encoded(self) -> Encoded:
        """What is on the format: the weight less its low-rank part, over the gain."""
        with torch.no_grad():
            rows = self._coded(self.inner.weight.flatten(1))
            scale, zero = self._spread(rows)
            codes = self.format.grid.nearest(rows / scale + zero)
        return Encoded(format=self.format, codes=codes, scale=self.scale, zero=self.zero)

    def affine(self, gain: Tensor, shift: Tensor) -> FormatLayer:
        """The same codes with output gain * y + shift, both [out]; needs a bias to carry shift."""
        inner, old = shallow(self.inner), self.inner.bias
        bias = shift if old is None else old.detach() * gain + shift
        view = (-1, *([1] * (inner.weight.dim() - 1)))
        weight = self.weight.detach() * gain.view(view)
        inner._parameters["weight"] = nn.Parameter(
            weight, requires_grad=self.inner.weight.requires_grad
        )
        inner._parameters["bias"] = nn.Parameter(bias.clone())
        free = self.format.takes_gain
        had = torch.ones_like(gain) if self.gain is None else self.gain
        return FormatLayer(
            inner=inner,
            format=self.format,
            scale=self.scale * gain[:, None] if free else self.scale,
            zero=self.zero,
            gain=self.gain if free else had * gain,
            up=None if self.up is None else self.up * gain[:, None],
            down=self.down,
        )
