"""Low-rank branch: the largest directions of a weight kept in float beside what is quantized."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from allot.errors import InputError, ModelError
from allot.num.lowrank import half, truncated
from allot.rewrites.channels import linear, linear_of
from allot.rewrites.inputs import linears
from allot.rewrites.layers import copied, put
from allot.rewrites.rewrite import Rewrite
from allot.task import Task


class Branched(nn.Module):
    """residual(x) + x down^T up^T: up [out, r] and down [r, in] see the input as it comes.

    `residual` is the layer that is quantized, with its own input; up and down hold values of half
    precision as float32 and stay so.  A bill counts them as parameters that no layer holds, at 4
    bytes each, twice what half precision would store.
    """

    def __init__(self, *, residual: nn.Linear, up: Tensor, down: Tensor) -> None:
        nn.Module.__init__(self)
        self.residual = residual
        self.up = nn.Parameter(up.to(residual.weight), requires_grad=False)
        self.down = nn.Parameter(down.to(residual.weight), requires_grad=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x) + functional.linear(functional.linear(x, self.down), self.up)


@dataclass(frozen=True, kw_only=True)
class Branch(Rewrite):
    """W = R + up down, up down of some rank by the singular values of W (SVDQuant, Li et al. 2024).

    The paper smooths first (`Smooth` or its kin before this in the list), so that outliers are in
    the weights, and the branch takes them out.  R is what is left after the factors were rounded
    to half precision, so their rounding loses nothing.  layers: names of linears; () for every one
    that runs and is wide enough to have more than that rank.
    """

    rank: int
    layers: tuple[str, ...] = ()

    def apply(self, task: Task) -> nn.Module:
        """Raises InputError for a rank above a matrix's, ModelError for what is no linear and
        where no linear is wide enough."""
        model = copied(task)
        names = linears(task, model, self.layers)
        if not self.layers:
            wide = (n for n in names if min(linear_of(model, n).weight.shape) > self.rank)
            names = tuple(wide)
        if not names:
            raise ModelError(f"no linear has more than rank {self.rank}; give a lower one")
        for name in names:
            layer = linear_of(model, name)
            most = min(layer.weight.shape)
            if not 1 <= self.rank <= most:
                raise InputError(
                    f"{name} is {layer.out_features} x {layer.in_features} and has no part of rank "
                    f"{self.rank}; give 1 to {most}, or name the layers that shall have a branch"
                )
            up, down = (half(f) for f in truncated(layer.weight.detach(), self.rank))
            rest = layer.weight.detach().double() - up.double() @ down.double()
            residual = linear(rest, layer.bias, like=layer)
            put(model, name, Branched(residual=residual, up=up, down=down))
        return model
