"""Rotate input: a linear's input times a Hadamard matrix while the network runs."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from allot.errors import ModelError
from allot.num.rotate import power_of_two, signs, transform
from allot.rewrites.channels import linear, linear_of
from allot.rewrites.inputs import linears
from allot.rewrites.layers import copied, put
from allot.rewrites.rewrite import Rewrite
from allot.task import Task


class Rotated(nn.Module):
    """x -> inner(x D H): signs D [in], H a Hadamard matrix per `block` neighbouring channels.

    What is quantized is inner's input, after the rotation.
    """

    def __init__(self, *, inner: nn.Linear, signs: Tensor, block: int) -> None:
        nn.Module.__init__(self)
        self.inner, self.block = inner, block
        self.signs: Tensor
        self.register_buffer("signs", signs.to(inner.weight))

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(transform(x * self.signs, self.block))


@dataclass(frozen=True, kw_only=True)
class RotateInput(Rewrite):
    """(x H)(H^T W^T) in place of x W^T, H applied online (QuaRot, Ashkboos et al. 2024).

    For inputs that no rotation of what writes them reaches: after an activation function, after
    attention.  layers: names of linears; () for every linear that runs and has an even width.  H is
    random signs times Sylvester's matrix of the largest power of two that divides the width, block
    by block.  It costs log2(block) additions per element of the input, which no bill counts.
    """

    layers: tuple[str, ...] = ()
    seed: int = 0

    def apply(self, task: Task) -> nn.Module:
        """Raises ModelError for a name that is no linear, or one of odd width."""
        model = copied(task)
        found = linears(task, model, self.layers)
        blocks = {n: power_of_two(linear_of(model, n).in_features) for n in found}
        odd = [n for n, b in blocks.items() if b == 1]
        if odd and (self.layers or len(odd) == len(found)):
            width = linear_of(model, odd[0]).in_features
            raise ModelError(f"{odd[0]} reads {width} channels; a rotation needs an even number")
        for i, (name, block) in enumerate(blocks.items()):
            if block > 1:
                put(model, name, _rotated(linear_of(model, name), self.seed + i, block))
        return model


def _rotated(layer: nn.Linear, seed: int, block: int) -> Rotated:
    sign = signs(layer.in_features, seed=seed).to(layer.weight.device)
    with torch.no_grad():
        weight = transform(layer.weight.double() * sign, block)
    return Rotated(inner=linear(weight, layer.bias, like=layer), signs=sign, block=block)
