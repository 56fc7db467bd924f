"""Exponent bias folding: activations get a power of two per channel, weights take it back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from allot.errors import InputError, ModelError
from allot.rewrites.flow import Flow, flows
from allot.rewrites.layers import (
    copied,
    layer,
    magnitudes,
    put,
    scale_inputs,
    scale_outputs,
    units,
)
from allot.rewrites.norms import norm_kind
from allot.rewrites.readers import most, scale_readers
from allot.rewrites.rewrite import Rewrite
from allot.task import Task


class ChannelScale(nn.Module):
    """x times a factor per channel, which lies at `dim`."""

    def __init__(self, factors: Tensor, *, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.register_buffer("factors", factors)

    def forward(self, x: Tensor) -> Tensor:
        factors = self.get_buffer("factors").to(x)
        return x * (factors if self.dim == -1 else factors[:, None, None])


@dataclass(frozen=True, kw_only=True)
class FoldExponentBias(Rewrite):
    """Channels of every layer's input brought to the size of the largest by powers of two.

    Channel j is multiplied by 2^b_j and its weights are divided by it, with b_j =
    floor(log2(max_k |x_k| / |x_j|)) clipped to 0..reach, from calibration inputs: the channel-wise
    exponent bias of a float format with 2^e - 1 = reach (Liu et al. 2023, LLM-FP4).  The output is
    the same bit for bit.  Where the layer or norm before may be scaled, it is; elsewhere a
    `ChannelScale` stands in front of the layer, one product per element at run time.

    Deviations: weights are divided before they are quantized, not after, so that a grid per row
    has fewer levels for channels of small inputs; b is rounded down, not to the nearest, so that
    no channel becomes the new largest: the paper searches the tensor's own scale afterwards, here
    that is left to its range.
    """

    reach: int = 3

    def __post_init__(self) -> None:
        if self.reach < 1:
            raise InputError(f"the exponent must reach at least 1, got {self.reach}")

    def apply(self, task: Task) -> nn.Module:
        model = copied(task)
        names = [name for name, _ in units(model)]
        seen = magnitudes(task, model, names)
        done: set[str] = set()
        changed = False
        for flow in _foldable(task, model):
            factors = powers(most(flow, lambda r: seen.get(r.module)), self.reach)
            done |= {r.module for r in flow.readers}
            if bool((factors != 1).any()):
                changed = True
                _scale_source(model.get_submodule(flow.source), factors)
                scale_readers(model, flow, 1 / factors)
        rest = {n: x for n, x in seen.items() if n not in done}
        if not (_inserted(model, rest, self.reach) or changed):
            raise ModelError(
                "no exponent can be folded: this looks for a Conv2d or Linear of whose input "
                "channels the largest is at least twice another on the calibration inputs"
            )
        return model


def powers(sizes: Tensor, reach: int) -> Tensor:
    """2^b for the largest magnitude of every channel, 1 for a channel of zeros: [n] -> float64."""
    wide = sizes.double()
    b = (wide.max() / wide).log2().floor().clamp(0, reach)
    return torch.where(wide > 0, b.exp2(), 1.0)


def _foldable(task: Task, model: nn.Module) -> list[Flow]:
    """Layers and norms whose output only layers read, no reader twice."""
    names = [n for n, m in model.named_modules() if _is_source(m)]
    found = [f for f in flows(task, names).values() if f.closed]
    # a layer that reads several sources, joined, is scaled on its own
    times = [r.module for f in found for r in f.readers]
    return [f for f in found if all(times.count(r.module) == 1 for r in f.readers)
            and all(min(r.channels) >= 0 for r in f.readers)]  # fmt: skip


def _is_source(module: nn.Module) -> bool:
    if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
        return module.affine
    if type(module) in (nn.Conv2d, nn.Linear):
        return True
    return bool(norm_kind(module)) and bool(list(module.parameters()))


def _scale_source(module: nn.Module, factors: Tensor) -> None:
    if isinstance(module, nn.Conv2d | nn.Linear):
        scale_outputs(module, factors)
        return
    with torch.no_grad():
        for p in module.parameters(recurse=False):
            p.mul_(factors.to(p))


def _inserted(model: nn.Module, seen: Mapping[str, Tensor], reach: int) -> bool:
    """A scale in front of each layer that has one (in place); whether there was any."""
    changed = False
    for name, sizes in seen.items():
        factors = powers(sizes, reach)
        if bool((factors != 1).any()):
            module = layer(model, name)
            dim = -3 if isinstance(module, nn.Conv2d) else -1
            scale_inputs(module, 1 / factors)
            put(model, name, nn.Sequential(ChannelScale(factors.to(sizes), dim=dim), module))
            changed = True
    return changed
