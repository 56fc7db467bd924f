"""Outlier tokens: the first token goes around a quantized linear, the others through it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from allot.errors import ModelError
from allot.rewrites.channels import linear_of
from allot.rewrites.inputs import linears
from allot.rewrites.layers import BATCH, copied, put
from allot.rewrites.rewrite import Rewrite
from allot.sweep import observed
from allot.task import Task

# inputs that must agree before a first token counts as the same for all
_ENOUGH = 8
_SAME = 1e-6


class FirstApart(nn.Module):
    """[n, t, in] -> [n, t, out]: `layer` for all tokens but the first.

    For the first, either `made` [out], what the layer gives for a token that is always the same,
    or a float `weight` [out, in] and `bias`.  These are parameters that no layer holds: bills count
    4 bytes for each, so 4 * out bytes for `made`, and for `weight` the layer's float size on top of
    the quantized one.  Sequences are given from their start: one token alone is the first.
    """

    def __init__(
        self, *, layer: nn.Linear, made: Tensor | None, weight: Tensor | None, bias: Tensor | None
    ) -> None:
        nn.Module.__init__(self)
        self.layer = layer
        self.made, self.weight, self.bias = (
            None if v is None else nn.Parameter(v.detach().clone(), requires_grad=False)
            for v in (made, weight, bias)
        )

    def forward(self, x: Tensor) -> Tensor:
        rest = self.layer(x[:, 1:])
        if self.made is not None:
            first = self.made.expand(len(x), 1, -1)
        else:
            assert self.weight is not None
            first = functional.linear(x[:, :1], self.weight, self.bias)
        return torch.cat([first, rest], 1)


@dataclass(frozen=True, kw_only=True)
class OutlierTokens(Rewrite):
    """The first token kept in float (MixDQ, Zhao et al. 2024): it alone would set the range.

    layers: names of linears that read [n, t, in]; () for those whose first token's largest
    magnitude is at least `ratio` times that of any other token.  Where the first token is the same
    for all calibration inputs (at least 8: a class token at the first layer, a start token under a
    causal mask) its output is computed once and stored; the identity then holds for inputs that
    begin so.  Elsewhere the float weight is kept for it.
    """

    layers: tuple[str, ...] = ()
    ratio: float = 4.0

    def apply(self, task: Task) -> nn.Module:
        """Raises ModelError where no first token stands out, or a layer reads no tokens."""
        model = copied(task)
        found = _first(task, model, linears(task, model, self.layers))
        chosen = self.layers or [n for n, s in found.items() if s.stands_out(self.ratio)]
        if not chosen:
            raise ModelError(
                f"no linear reads a first token {self.ratio:g} times as large as all others; "
                "leave this rewrite out, or name the layers"
            )
        for name in chosen:
            if name not in found:
                raise ModelError(f"{name} reads no tokens [n, t, in]; leave it out")
            put(model, name, _apart(linear_of(model, name), found[name]))
        return model


@dataclass(kw_only=True)
class _First:
    """First tokens of a layer's input: low, high [in] over inputs, and the others' magnitude."""

    low: Tensor
    high: Tensor
    others: float
    count: int

    def stands_out(self, ratio: float) -> bool:
        """Whether it is so many times as large as any other token."""
        return float(torch.maximum(self.high, -self.low).max()) >= ratio * self.others

    def is_constant(self) -> bool:
        """Whether all inputs had the same."""
        size = float(torch.maximum(self.high, -self.low).max())
        return self.count >= _ENOUGH and float((self.high - self.low).max()) <= _SAME * size


def _first(task: Task, model: nn.Module, names: Sequence[str]) -> dict[str, _First]:
    """What the linears that read tokens met, over the calibration inputs."""
    found: dict[str, _First] = {}

    def observer(name: str) -> Callable[[Tensor], None]:
        def observe(x: Tensor) -> None:
            if x.dim() != 3 or x.shape[1] < 2:
                return
            first = x[:, 0].detach()
            low, high = first.amin(0), first.amax(0)
            others, count = float(x[:, 1:].detach().abs().max()), len(x)
            if name in found:
                old = found[name]
                low, high = torch.minimum(low, old.low), torch.maximum(high, old.high)
                others, count = max(others, old.others), count + old.count
            found[name] = _First(low=low, high=high, others=others, count=count)

        return observe

    with torch.no_grad(), observed(model, {(n, "in"): [observer(n)] for n in names}):
        for batch in task.calibrate.batches(BATCH):
            task.forward(model, batch)
    return found


def _apart(layer: nn.Linear, first: _First) -> FirstApart:
    if first.is_constant():
        with torch.no_grad():
            made = layer((first.low + first.high) / 2)
        return FirstApart(layer=layer, made=made, weight=None, bias=None)
    return FirstApart(layer=layer, made=None, weight=layer.weight, bias=layer.bias)
