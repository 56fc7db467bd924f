"""Felt: how much an error in each weight of a planned network costs in divergence."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from allot.harm.draws import curved, signs
from allot.options.statistics import Gram, gram_of
from allot.reconstruct.learning import Planned
from allot.site import Graph
from allot.sweep import Observer, find, observed, unwrapped
from allot.task import take

_DRAWS, _BATCH = 4, 32


@dataclass(frozen=True, kw_only=True, eq=False)
class Felt:
    """Of a layer: gram [groups, k, k], the mean second moment of what a place of its output reads;
    harm [out], with divergence near sum_o harm_o e_o gram e_o^T for errors e [out, k], in nats."""

    gram: Tensor
    harm: Tensor


def felt(
    planned: Planned, standins: Mapping[str, nn.Module], layers: tuple[str, ...], *, samples: int
) -> dict[str, Felt]:
    """Layer -> what is felt of it, with stand-ins in place.

    The divergence's curvature at the output is carried to every layer's output by gradients of
    random directions (`allot.harm.draws`); errors at different places of an output are taken as
    unrelated.  Raises InputError for a divergence of unknown curvature.
    """
    task, generator = planned.task, torch.Generator().manual_seed(planned.seed)
    data = task.calibrate.subset(slice(0, samples))
    with planned.bank.trial(standins) as model:
        sums = {name: _sums(planned.bank.graph, model, name) for name in layers}
        observers: dict[tuple[str, str], list[Observer]] = {}
        for name, s in sums.items():
            observers[name, "in"], observers[name, "out"] = [s.read], [s.mark]
        with observed(model, observers), torch.enable_grad():
            for part in torch.arange(len(data)).split(_BATCH):
                output = task.forward(model, take(data.inputs, part))
                shape = curved(task, output.detach(), generator)
                drawn = signs(output.shape, _DRAWS, generator)
                directions = shape.directions(output.detach(), drawn)
                _differentiate(output, directions, list(sums.values()))
    return {name: s.felt(len(data)) for name, s in sums.items()}


def _sums(graph: Graph, model: nn.Module, name: str) -> _Sums:
    layer = unwrapped(find(model, name))
    inner = getattr(layer, "inner", layer)
    statistic = gram_of(graph.layer(name))
    if isinstance(inner, nn.Conv2d):
        # a narrowed depthwise layer has fewer groups than the original
        return _Sums(replace(statistic, groups=inner.groups), channels=1)
    return _Sums(statistic, channels=-1)


def _differentiate(output: Tensor, directions: Tensor, sums: list[_Sums]) -> None:
    leaves = [leaf for s in sums for leaf in s.leaves]
    for i, direction in enumerate(directions):
        more = i + 1 < len(directions)
        torch.autograd.grad(
            output, leaves, direction.to(output), retain_graph=more, allow_unused=True
        )
    for s in sums:
        s.leaves.clear()


class _Sums:
    """Running sums of one layer. channels: dim of its output's channels."""

    def __init__(self, statistic: Gram, *, channels: int) -> None:
        self.statistic, self.channels = statistic, channels
        self.leaves: list[Tensor] = []
        self.gram: Tensor | None = None
        self.squares: Tensor | None = None
        self.looked = 0

    def read(self, x: Tensor) -> None:
        """Adds what the layer reads to the gram."""
        self.gram = self.statistic.update(self.gram, x.detach())

    def mark(self, y: Tensor) -> Tensor:
        """Makes an output a place where gradients are summed up."""
        if not y.requires_grad:
            self.leaves.append(y.detach().requires_grad_())
            y = self.leaves[-1].clone()
        y.register_hook(self._add)
        samples, places = len(y), y[0].numel() // y.shape[self.channels]
        # of a convolution the gram looks at some places of every sample alone
        some = self.statistic.places if self.statistic.kernel else 0
        self.looked += samples * (min(some, places) if some else places)
        return y

    def _add(self, gradient: Tensor) -> None:
        moved = gradient.detach().movedim(self.channels, 0).flatten(1)
        found = moved.double().square().sum(1)
        self.squares = found if self.squares is None else self.squares + found

    def felt(self, samples: int) -> Felt:
        assert self.gram is not None and self.squares is not None
        return Felt(gram=self.gram / self.looked, harm=self.squares / (2 * _DRAWS * samples))
