"""Batch norm folding: a batch norm in eval mode becomes part of the layer before it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

from allot.errors import ModelError
from allot.rewrites.flow import Flow, flows
from allot.rewrites.layers import copied, layer, put, units
from allot.rewrites.rewrite import Rewrite
from allot.task import Task


@dataclass(frozen=True, kw_only=True)
class FoldNorms(Rewrite):
    """Every batch norm that alone reads a layer, folded into it (Jacob et al. 2018).

    The norm becomes an Identity, so that every module keeps its name; its layer, a convolution or
    linear, has a bias.  Norms after something else than a layer stay.
    """

    def apply(self, task: Task) -> nn.Module:
        model = copied(task)
        names = [name for name, _ in units(model)]
        found = [flow for flow in flows(task, names, rectified=False).values() if _folds(flow)]
        if not found:
            raise ModelError(
                "no batch norm can be folded: this looks for a BatchNorm1d or BatchNorm2d with "
                "running statistics that alone reads what a Conv2d or Linear makes"
            )
        for flow in found:
            name = flow.norms[0].module
            norm = model.get_submodule(name)
            assert isinstance(norm, nn.BatchNorm1d | nn.BatchNorm2d)
            _fold(layer(model, flow.source), norm)
            put(model, name, nn.Identity())
        return model


def _folds(flow: Flow) -> bool:
    alone = len(flow.norms) == 1 and not flow.readers and not flow.leak
    return alone and flow.is_whole(flow.norms[0])


def _fold(module: nn.Conv2d | nn.Linear, norm: nn.BatchNorm1d | nn.BatchNorm2d) -> None:
    """Changes the layer in place: norm(layer(x)) = new(x), worked out in float64."""
    w = module.weight
    assert norm.running_mean is not None and norm.running_var is not None
    gain = (norm.running_var.double() + norm.eps).rsqrt()
    shift = torch.zeros_like(gain)
    if norm.affine:
        gain, shift = gain * norm.weight.detach().double(), norm.bias.detach().double()
    before = torch.zeros_like(gain) if module.bias is None else module.bias.detach().double()
    bias = (before - norm.running_mean.double()) * gain + shift
    wide = w.detach().double() * gain.view(-1, *[1] * (w.dim() - 1))
    # parameters of its own: those that it shared with another layer would change there too
    module.weight = nn.Parameter(wide.to(w), requires_grad=False)
    module.bias = nn.Parameter(bias.to(w), requires_grad=False)
