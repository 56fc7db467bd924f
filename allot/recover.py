"""Recover: repair a planned network on calibration data, in execution order, in one pass."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from allot.bank import Bank
from allot.option import Option
from allot.options.formatted import Formatted
from allot.options.precision import Weight
from allot.options.standins import OnGrid, shallow
from allot.options.statistics import gram_of
from allot.options.width import kept_positions
from allot.part import Part
from allot.site import Graph
from allot.sweep import Observer, observed, rewrapped, unwrapped
from allot.task import Task, take

# a correction may not stretch a channel by more than this: beyond it the channel is noise
_MOST_GAIN = 4.0

Moments = Mapping[str, tuple[Tensor, Tensor]]
# gain and shift, both [channels]
Correction = tuple[Tensor, Tensor]


@dataclass(frozen=True, kw_only=True)
class Recovery(Part):
    """What repairs a planned network.

    samples: calibration inputs it sees, as one batch.  matched: shift and scale every normalized
    or biased layer so that mean and variance of its output equal the original's on the same
    inputs (after Nagel et al. 2019 and Sun et al. 2019; matching to the original instead of
    re-estimating is ours).  in_order: round every weight again, in execution order, for the
    inputs that the already repaired network gives it (Frantar et al. 2022).  learning: how codes
    are then learned (an `allot.reconstruct.learning.Learning`), or None.
    """

    samples: int = 256
    matched: bool = True
    in_order: bool = False
    learning: Part | None = None

    @property
    def together(self) -> bool:
        """Whether codes depend on the options around them, not on statistics alone."""
        return self.in_order or self.learning is not None

    @property
    def name(self) -> str:
        """Short name for plans and reports."""
        steps = ["rounded in order"] if self.in_order else []
        steps += [f"matched on {self.samples}"] if self.matched else []
        steps += ["reconstructed"] if self.learning is not None else []
        return ", ".join(steps) or "no recovery"


LIGHT = Recovery(samples=128)
STEADY = Recovery(samples=512)
STRONG = Recovery(samples=1024, in_order=True)
BY_NAME = {r.name: r for r in (LIGHT, STEADY, STRONG)}


def moments(task: Task, model: nn.Module, graph: Graph, *, samples: int) -> Moments:
    """Mean and standard deviation [channels] of the output of every layer that is matched."""
    found: dict[str, tuple[Tensor, Tensor]] = {}

    def observer(name: str) -> Observer:
        dim = channel_dim(graph, name)

        def observe(x: Tensor) -> None:
            found[name] = channel_moments(x, dim)

        return observe

    hooks = {(name, "out"): [observer(name)] for name in matchable(graph)}
    with observed(model, hooks), torch.no_grad():
        task.forward(model, take(task.calibrate.inputs, slice(0, samples)))
    return found


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


def recovered(
    bank: Bank,
    task: Task,
    options: Mapping[str, Option],
    *,
    recovery: Recovery,
    original: Moments,
) -> dict[str, nn.Module]:
    """Stand-ins of a plan after recovery; the bank's own encodings are left as they are.

    original: `moments` of the original on the same samples.  A plan that changes nothing, and
    everything before a plan's first change, stays exactly as it was.
    """
    standins = bank.standins(options)
    if not standins:
        return {}
    observers: dict[tuple[str, str], list[Observer]] = {}
    if recovery.in_order:
        observers |= _rounders(bank, options, standins)
    corrections: dict[str, Correction] = {}
    if recovery.matched:
        for name in _after_change(bank.graph, set(standins)):
            kept = kept_positions(name, options, graph=bank.graph, stats=bank.stats)
            dim = channel_dim(bank.graph, name)
            observers[(name, "out")] = [_matcher(name, original[name], kept, dim, corrections)]
    if not observers:
        return standins
    with bank.trial(standins) as model, observed(model, observers), torch.no_grad():
        task.forward(model, take(task.calibrate.inputs, slice(0, recovery.samples)))
    for name, correction in corrections.items():
        standins[name] = corrected(standins.get(name, bank.module(name)), correction)
    return standins


def _rounders(
    bank: Bank, options: Mapping[str, Option], standins: dict[str, nn.Module]
) -> dict[tuple[str, str], list[Observer]]:
    """What rounds every layer again; their stand-ins become copies (in place)."""
    observers: dict[tuple[str, str], list[Observer]] = {}
    for name in [n for n, m in standins.items() if isinstance(unwrapped(m), OnGrid)]:
        option = options[f"{name}.weight"]
        if not isinstance(option, Weight | Formatted):
            continue  # its codes are not rounded by a scale and inputs: the bank's stay
        standins[name] = _private(standins[name])
        rounder = _rounder(bank, name, options, option, standins[name])
        observers[(name, "in")] = [rounder]
    return observers


def corrected(module: nn.Module, correction: Correction) -> nn.Module:
    """The module with its output corrected inside its wrappers."""
    return rewrapped(module, affine(unwrapped(module), *correction))


def _after_change(graph: Graph, touched: set[str]) -> list[str]:
    """Matchable modules that run at or after the first touched one."""
    names = [name for name, event in graph.order if event == "start"]
    first = min(i for i, name in enumerate(names) if name in touched)
    later = set(names[first:])
    return [name for name in matchable(graph) if name in later]


def _private(module: nn.Module) -> nn.Module:
    return rewrapped(module, copy.deepcopy(unwrapped(module)))


def _rounder(
    bank: Bank,
    name: str,
    options: Mapping[str, Option],
    option: Weight | Formatted,
    standin: nn.Module,
) -> Observer:
    """Rounds the layer's float weights again for the inputs that arrive, before it sees them."""
    layer = unwrapped(standin)
    assert isinstance(layer, OnGrid)
    statistic = gram_of(bank.graph.layer(name))
    if isinstance(layer.inner, nn.Conv2d):
        # a narrowed depthwise layer has fewer groups than the original
        statistic = replace(statistic, groups=layer.inner.groups)

    def observe(x: Tensor) -> None:
        gram = statistic.update(None, x)
        layer.become_(option.encoded(bank.unrounded(name, options), gram=gram))

    return observe


def _matcher(
    name: str,
    target: tuple[Tensor, Tensor],
    kept: Tensor,
    dim: int,
    corrections: dict[str, Correction],
) -> Observer:
    """Corrects a module's output to the original's moments, for all that comes after it."""
    goal = (target[0][kept], target[1][kept])

    def observe(x: Tensor) -> Tensor:
        corrections[name], y = matched(x, goal, dim)
        return y

    return observe


def matched(x: Tensor, goal: tuple[Tensor, Tensor], dim: int) -> tuple[Correction, Tensor]:
    """Gain and shift [channels] that give x the goal's mean and deviation, and x with them."""
    gain, shift = correction(channel_moments(x, dim), goal)
    if dim % x.dim() == x.dim() - 1:
        return (gain, shift), x * gain + shift
    shape = (1, -1, *([1] * (x.dim() - 2)))
    return (gain, shift), x * gain.view(shape) + shift.view(shape)


def correction(now: tuple[Tensor, Tensor], goal: tuple[Tensor, Tensor]) -> Correction:
    """Gain and shift [channels] that take one mean and deviation to another."""
    mean, std = now
    gain = torch.where(std > 1e-6, goal[1] / std.clamp(min=1e-6), 1.0)
    gain = gain.clamp(1 / _MOST_GAIN, _MOST_GAIN)
    shift = (goal[0] - mean * gain).float()
    return gain.float(), shift


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
