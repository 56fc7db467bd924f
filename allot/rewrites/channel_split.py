"""Channel splits: a channel with outliers becomes several channels with a part of it each."""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from allot.errors import InputError, ModelError
from allot.rewrites.layers import copied, extremes, layer, put, units
from allot.rewrites.regroup import (
    Regroup,
    Regrouped,
    channels_dim,
    columns,
    offsets,
    repeats,
    resized,
)
from allot.rewrites.rewrite import Rewrite
from allot.task import Task


@dataclass(frozen=True, kw_only=True)
class SplitWeights(Rewrite):
    """Input channels with the largest weights T times, each with 1/T of them (Zhao et al. 2019).

    share: of the input channels of a layer that may be added, rounded up.  layers: by name, ()
    for all.  bits: width that the weights will have; the parts are shifted by shares of the step
    of that grid so that rounding them adds up to rounding the whole, as the paper's shifted
    halves; 0 for equal parts.

    Deviations: the layer picks the repeated channels itself, in front of its input, instead of
    the layer before making them twice, so that anything may lie between; T is the least that
    brings all weights below one threshold (`parts_of`), instead of halving the largest again.
    """

    share: float = 0.05
    layers: tuple[str, ...] = ()
    bits: int = 4

    def __post_init__(self) -> None:
        _check(self.share, self.bits)

    def apply(self, task: Task) -> nn.Module:
        model = copied(task)
        for name, module in chosen(model, self.layers):
            wide = module.weight.detach().double()
            counts = parts_of(columns(wide).abs().amax(1), added(self.share, module))
            index = repeats(counts)
            parts = wide[:, index] / _as_columns(counts[index], wide)
            if self.bits:
                top = parts.abs().flatten(1).amax(1).view(-1, *[1] * (wide.dim() - 1))
                step = top / (2 ** (self.bits - 1) - 1)
                parts = parts + step * _as_columns(offsets(index, counts), wide)
            regroup = Regroup(index, torch.ones(len(index)), dim=channels_dim(module))
            put(model, name, Regrouped(regroup, resized(module, parts)))
        return model


@dataclass(frozen=True, kw_only=True)
class SplitInputs(Rewrite):
    """Input channels with the largest values in T parts of 1/T each (Liu et al. 2024, QLLM).

    share: of the input channels of a layer that may be added, rounded up.  layers: by name, ()
    for all that run on the calibration inputs.  A channel's T is its largest value over a
    threshold, rounded up; its column of weights is repeated T times.  bits: width that the inputs
    will have; parts are shifted as in `SplitWeights`; 0 for equal parts, as in the paper.

    Deviation: the threshold is the least that the share allows, instead of one searched for the
    output's error.  The second half of the method, which merges similar channels again, changes
    the output and is no rewrite: `channel_merge.merged`.
    """

    share: float = 0.05
    layers: tuple[str, ...] = ()
    bits: int = 0

    def __post_init__(self) -> None:
        _check(self.share, self.bits)

    def apply(self, task: Task) -> nn.Module:
        model = copied(task)
        picked = dict(chosen(model, self.layers))
        seen = extremes(task, model, tuple(picked))
        if not seen:
            raise ModelError("no channel can be split: none of the layers runs on calibration data")
        for name, (lo, hi) in seen.items():
            module, sizes = picked[name], torch.maximum(-lo, hi)
            counts = parts_of(sizes, added(self.share, module))
            index = repeats(counts)
            gain = 1.0 / counts[index].double()
            shift = None
            if self.bits:
                top, signed = (sizes[index] * gain).max(), bool((lo < 0).any())
                step = top / (2 ** (self.bits - 1) - 1 if signed else 2**self.bits - 1)
                shift = (step * offsets(index, counts)).to(sizes)
            regroup = Regroup(index, gain.to(sizes), dim=channels_dim(module), shift=shift)
            weight = module.weight.detach()[:, index]
            put(model, name, Regrouped(regroup, resized(module, weight)))
        return model


def _check(share: float, bits: int) -> None:
    if not 0 < share <= 1:
        raise InputError(f"the share of added channels must be above 0 and at most 1, got {share}")
    if bits and bits < 2:
        raise InputError(f"the width of the grid must be 0 or at least 2 bits, got {bits}")


def added(share: float, module: nn.Conv2d | nn.Linear) -> int:
    """How many input channels a layer gets."""
    return math.ceil(share * module.weight.shape[1])


def chosen(model: nn.Module, names: Sequence[str]) -> Iterator[tuple[str, nn.Conv2d | nn.Linear]]:
    """Layers in one group of these names, or all of them; ModelError where one has groups."""
    pairs = [(n, layer(model, n)) for n in names] if names else list(units(model))
    fit = [(n, m) for n, m in pairs if isinstance(m, nn.Linear) or m.groups == 1]
    if (len(fit) < len(pairs) and names) or not fit:
        raise ModelError(
            "no channel can be split: this looks for a Linear or a Conv2d with groups=1"
            + (f" under each of the names {list(names)}" if names else "")
        )
    return iter(fit)


def parts_of(sizes: Tensor, count: int) -> Tensor:
    """T of each channel for the least threshold that adds at most `count`: [in] -> int64 [in].

    T = max(1, ceil(size / threshold)).
    """
    wide = sizes.double()
    # T changes only where the threshold is size / t
    steps = (wide[:, None] / torch.arange(1, count + 2, device=wide.device)).unique()
    steps = steps[steps > 0].tolist()
    if not steps:
        return torch.ones_like(wide, dtype=torch.long)

    def counts(threshold: float) -> Tensor:
        return (wide / threshold - 1e-9).ceil().clamp(min=1).long()

    fits = bisect_left(steps, True, key=lambda s: int((counts(s) - 1).sum()) <= count)
    return counts(steps[fits])


def _as_columns(values: Tensor, weight: Tensor) -> Tensor:
    return values.view(1, -1, *[1] * (weight.dim() - 2))
