"""Cross-layer equalization: channels of consecutive layers get ranges of one size."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from allot.errors import InputError, ModelError
from allot.rewrites.flow import Flow, flows
from allot.rewrites.layers import copied, layer, output_sizes, scale_outputs, units
from allot.rewrites.readers import read_sizes, scale_readers
from allot.rewrites.rewrite import Rewrite
from allot.task import Task

# a channel may not be stretched by more than this in one step: beyond it the channel is noise
_MOST = 1e4


@dataclass(frozen=True, kw_only=True)
class CrossLayerEqualization(Rewrite):
    """Scales between a layer and those that read it, channel by channel (Nagel et al. 2019).

    Channel i of the layer is divided by s_i and its readers' columns are multiplied by it, with
    s_i = sqrt(r1 / r2) of the largest weights r1 that make the channel and r2 that read it, so
    that both become sqrt(r1 r2); over all pairs in turn until nothing moves, at most `iterations`
    times.  Between the two may lie what lets a positive scale pass: relu, leaky relu, pools,
    products with other tensors, flattening.  Fold batch norms first (`FoldNorms`).

    Deviations: several readers share one s, of the largest column among them; a triple around a
    depthwise convolution is two pairs in turn, which has the same fixed point.  Left alone are a
    channel that is never made or never read, layers that meet a residual addition (their scale
    would tie a whole stage) and ReLU6 (the paper puts ReLU in its place, which is no identity);
    high biases are not absorbed, because that keeps the output only as far as the data reach.
    """

    iterations: int = 20

    def __post_init__(self) -> None:
        if self.iterations < 1:
            raise InputError(f"iterations must be at least 1, got {self.iterations}")

    def apply(self, task: Task) -> nn.Module:
        model = copied(task)
        pairs = [f for f in flows(task, [n for n, _ in units(model)]).values() if f.closed]
        if not pairs:
            raise ModelError(
                "nothing can be equalized: this looks for a Conv2d or Linear whose output only "
                "other such layers read, with nothing but ReLU, pools and the like between; fold "
                "batch norms first"
            )
        for _ in range(self.iterations):
            if max([_equalize(model, pair) for pair in pairs]) < 1e-3:
                break
        return model


def _equalize(model: nn.Module, flow: Flow) -> float:
    """One pair (in place); the largest change of a scale, as |log s|."""
    source = layer(model, flow.source)
    made = output_sizes(source).double().cpu()
    read = read_sizes(model, flow)
    scale = (made / read).sqrt()
    scale = torch.where((made > 0) & (read > 0), scale, 1.0).clamp(1 / _MOST, _MOST)
    scale_outputs(source, 1 / scale)
    scale_readers(model, flow, scale)
    return float(scale.log().abs().max())
