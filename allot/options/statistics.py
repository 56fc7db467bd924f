"""Statistics that several options read: the second moment of a layer's input."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from allot.num.gram import patches_moment, rows_moment
from allot.option import Statistic
from allot.site import Layer


@dataclass(frozen=True, kw_only=True)
class Gram(Statistic):
    """Second moment of a layer's input, a plain sum in float64: state [groups, k, k].

    k = in / groups * kh * kw, in the order of weight.reshape(out, -1).  kernel: () for a linear,
    whose state is [1, in, in].  Padding counts as zeros whatever the layer's padding mode.
    places: output places looked at in every sample of a convolution (neighbours tell the same
    again); 0 for all.
    """

    role: str = "in"
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    dilation: tuple[int, ...] = ()
    groups: int = 1
    places: int = 16

    def update(self, state: Tensor | None, x: Tensor) -> Tensor:
        if self.kernel:
            new = patches_moment(
                x if x.dim() == 4 else x[None],
                kernel=self.kernel,
                stride=self.stride,
                padding=self.padding,
                dilation=self.dilation,
                groups=self.groups,
                places=self.places,
            )
        else:
            new = rows_moment(x)
        return new if state is None else state + new


def gram_of(layer: Layer) -> Gram:
    """The statistic of a layer's input."""
    return Gram(
        module=layer.module,
        kernel=tuple(layer.weight[2:]),
        stride=layer.stride,
        padding=layer.padding,
        dilation=layer.dilation,
        groups=layer.groups,
    )
