"""Moments: mean and deviation of every channel that is matched, and what corrects a module so."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from allot.options.standins import OnGrid, shallow
from allot.site import Graph
from allot.sweep import Observer, observed, rewrapped, unwrapped
from allot.task import Task, take

# a correction may not stretch a channel by more than this: beyond it the channel is noise
_MOST_GAIN = 4.0

# module -> mean and standard deviation, both [channels]
Moments = Mapping[str, tuple[Tensor, Tensor]]
# gain and shift, both [channels]
Correction = tuple[Tensor, Tensor]
# of one batch: how many values, mean and standard deviation [channels]
Share = tuple[int, Tensor, Tensor]


def moments(
    task: Task, model: nn.Module, graph: Graph, *, samples: int, batch: int = 128
) -> Moments:
    """Mean and standard deviation [channels] of the output of every layer that is matched."""
    found: dict[str, list[Share]] = {}

    def observer(name: str) -> Observer:
        dim = channel_dim(graph, name)

        def observe(x: Tensor) -> None:
            found.setdefault(name, []).append((x.numel(), *channel_moments(x, dim)))

        return observe

    hooks = {(name, "out"): [observer(name)] for name in matchable(graph)}
    with observed(model, hooks), torch.no_grad():
        for i in range(0, min(samples, len(task.calibrate)), batch):
            part = slice(i, min(i + batch, samples))
            task.forward(model, take(task.calibrate.inputs, part))
    return {name: pooled(parts) for name, parts in found.items()}


def pooled(parts: Sequence[Share]) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [channels] of all batches together (Chan et al. 1979)."""
    if len(parts) == 1:
        return parts[0][1:]
    shares = torch.tensor([n for n, _, _ in parts], dtype=torch.float64)
    shares = (shares / shares.sum())[:, None]
    means = torch.stack([mean for _, mean, _ in parts])
    deviations = torch.stack([deviation for _, _, deviation in parts])
    shares = shares.to(means.device)
    mean = (shares * means).sum(0)
    variance = (shares * (deviations.square() + (means - mean).square())).sum(0)
    return mean, variance.sqrt()


def matchable(graph: Graph) -> tuple[str, ...]:
    """Modules whose output can be shifted and scaled: norms, and biased layers without one."""
    known = {x.module for x in graph.layers if x.bias and not x.norm} | set(graph.norms)
    starts = [name for name, event in graph.order if event == "start" and name in known]
    return tuple(name for name in dict.fromkeys(starts) if starts.count(name) == 1)


def channel_dim(graph: Graph, module: str) -> int:
    """Where the channels of a module's output lie: last for a linear, [n, t, c], else second."""
    return -1 if any(x.module == module and x.op == "linear" for x in graph.layers) else 1


def channel_moments(x: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation [channels] over all other dims."""
    dims = [d for d in range(x.dim()) if d != dim % x.dim()]
    x = x.detach()
    mean = x.mean(dims, keepdim=True)
    # in two passes: torch.var_mean takes ten times as long over these dims
    variance = (x - mean).square_().mean(dims)
    return mean.flatten().double(), variance.double().sqrt()


def matched(x: Tensor, goal: tuple[Tensor, Tensor], dim: int) -> tuple[Correction, Tensor]:
    """Gain and shift [channels] that give x the goal's mean and deviation, and x with them."""
    found = correction(channel_moments(x, dim), goal)
    return found, changed(x, found, dim)


def changed(x: Tensor, by: Correction, dim: int) -> Tensor:
    """x with gain and shift along the dim of its channels."""
    gain, shift = by
    if dim % x.dim() == x.dim() - 1:
        return x * gain + shift
    shape = (1, -1, *([1] * (x.dim() - 2)))
    return x * gain.view(shape) + shift.view(shape)


def correction(now: tuple[Tensor, Tensor], goal: tuple[Tensor, Tensor]) -> Correction:
    """Gain and shift [channels] that take one mean and deviation to another."""
    mean, std = now
    gain = torch.where(std > 1e-6, goal[1] / std.clamp(min=1e-6), 1.0)
    gain = gain.clamp(1 / _MOST_GAIN, _MOST_GAIN)
    shift = (goal[0] - mean * gain).float()
    return gain.float(), shift


def corrected(module: nn.Module, correction: Correction) -> nn.Module:
    """The module with its output corrected inside its wrappers."""
    return rewrapped(module, affine(unwrapped(module), *correction))


def affine(module: nn.Module, gain: Tensor, shift: Tensor) -> nn.Module:
    """A copy of a norm or layer whose output is gain * y + shift, both [channels]."""
    if isinstance(module, OnGrid):
        return module.affine(gain, shift)
    if not isinstance(module, nn.Conv2d | nn.Linear | nn.BatchNorm1d | nn.BatchNorm2d):
        raise TypeError(f"{type(module).__name__} has no affine to correct")
    new, w = shallow(module), module.weight
    if w is None:  # a norm without affine gets one
        new.affine, weight = True, gain.clone()
    else:
        weight = w.detach() * gain.view(-1, *([1] * (w.dim() - 1)))
    bias = shift if module.bias is None else module.bias.detach() * gain + shift
    new._parameters["weight"] = nn.Parameter(weight, requires_grad=False)
    new._parameters["bias"] = nn.Parameter(bias.clone(), requires_grad=False)
    return new
