"""Width: how many channels of a group stay, which ones, and the repair of those that read them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from allot.errors import InputError
from allot.num.channels import removal_order
from allot.option import Effect, Option, Statistic, Stats, count
from allot.options.narrow import narrowed
from allot.options.statistics import Gram, gram_of
from allot.site import Graph, Site, Touch
from allot.space import Choice, Space
from allot.target import Target


@dataclass(frozen=True, kw_only=True)
class Keep(Option):
    """Keep a share of a channel group's classes; ratio 1 is the original.

    Which stay: `kept_classes`.  Layers that read the group are refitted by least squares on
    their original inputs.
    """

    kind: ClassVar[str] = "channels"
    level: ClassVar[int] = 0
    ratio: float

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise InputError(f"a share of channels lies above 0 and up to 1, got {self.ratio}")

    @property
    def label(self) -> str:
        return f"keep{self.ratio:g}"

    @property
    def is_original(self) -> bool:
        return self.ratio == 1

    def effect(self, site: Site) -> Effect:
        return Effect(keep=kept_count(site, self.ratio))

    def needs(self, site: Site, graph: Graph) -> tuple[Statistic, ...]:
        return () if self.is_original else tuple(_grams(site, graph).values())

    def apply(
        self, module: nn.Module, *, touch: Touch, site: Site, graph: Graph, stats: Stats
    ) -> nn.Module:
        keep = kept_classes(site, stats, graph, self.ratio)
        gram = stats.get(gram_of(graph.layer(touch.module))) if touch.role == "in" else None
        return narrowed(module, touch, keep, gram=gram)


@dataclass(frozen=True, kw_only=True)
class Removal(Statistic):
    """Order in which the classes of a channel site leave: state [classes], first leaves first.

    module: name of the site.  Made by `removals` from weights and second moments, not by
    watching a tensor.
    """

    role: str = "channels"

    def update(self, state: Tensor | None, x: Tensor) -> Tensor:
        raise TypeError("the order of removal is made by removals(), not from a tensor")


def kept_count(site: Site, ratio: float) -> int:
    """Classes that stay at a ratio: rounded half up, at least one."""
    return min(site.shape[0], max(1, int(ratio * site.shape[0] + 0.5)))


def kept_classes(site: Site, stats: Stats, graph: Graph, ratio: float) -> tuple[int, ...]:
    """Classes that stay, ascending; those of a smaller ratio are always among those of a larger.

    By the order of `removals` where `stats` holds it; else by the energy of each class in the
    inputs of the layers that read it; else (no statistics) the first ones stay.
    """
    n = kept_count(site, ratio)
    order = stats.get(Removal(module=site.name))
    if order is None:
        energy = _energy(site, stats, graph)
        order = torch.argsort(energy + torch.arange(site.shape[0], 0, -1) * 1e-12)
    return tuple(sorted(int(c) for c in order[site.shape[0] - n :]))


def kept_positions(
    module: str, options: Mapping[str, Option], *, graph: Graph, stats: Stats
) -> Tensor:
    """Original positions of a layer's or norm's output channels that stay under some options.

    options: site name -> option; those that are not about width do not matter.
    """
    size, gone = _output_size(module, graph), torch.zeros(0, dtype=torch.long)
    for name, option in options.items():
        if not isinstance(option, Keep) or option.is_original:
            continue
        site = graph.site(name)
        keep = kept_classes(site, stats, graph, option.ratio)
        for touch in site.touches:
            if touch.module == module and touch.role in ("out", "norm"):
                index = torch.tensor(touch.index)
                out = (index >= 0) & ~torch.isin(index, torch.tensor(keep))
                gone = torch.cat([gone, out.nonzero()[:, 0]])
    stay = torch.ones(size, dtype=torch.bool)
    stay[gone] = False
    return stay.nonzero()[:, 0]


def removals(model: nn.Module, graph: Graph, stats: Stats) -> dict[Statistic, Tensor]:
    """The order of removal of every channel site whose statistics are there.

    To be added to the statistics once, after calibration, with the original network: structured
    optimal brain surgeon on all layers that read the group; where only norms follow, the size
    of the weights and gains that make a channel.
    """
    orders: dict[Statistic, Tensor] = {}
    for site in graph.sites:
        if site.kind == "channels" and not site.fixed:
            found = _order(model, site, graph, stats)
            orders |= {} if found is None else {Removal(module=site.name): found}
    return orders


def _order(model: nn.Module, site: Site, graph: Graph, stats: Stats) -> Tensor | None:
    grams = _grams(site, graph)
    if not grams:
        return torch.argsort(_sizes(model, site), stable=True)
    if any(g not in stats for g in grams.values()):
        return None
    readers = []
    for touch, gram in grams.items():
        w = _weight(model.get_submodule(touch.module))
        owner = torch.tensor(touch.index).repeat_interleave(w[0, 0].numel())
        readers.append((w.reshape(len(w), -1).cpu(), stats[gram][0].cpu(), owner))
    return removal_order(readers, classes=site.shape[0])


def _sizes(model: nn.Module, site: Site) -> Tensor:
    """Product over norms and layers of the size of what makes a class: [classes]."""
    total = torch.zeros(site.shape[0], dtype=torch.float64)
    for touch in site.touches:
        module = model.get_submodule(touch.module)
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d) and not module.affine:
            continue
        w = _weight(module)
        size = w.reshape(len(w), -1).norm(dim=1).double().cpu().clamp(min=1e-30).log()
        total += _summed(site, touch, size)
    return total


def _energy(site: Site, stats: Stats, graph: Graph) -> Tensor:
    """Share of each class in the second moments of the layers that read it: [classes]."""
    total = torch.zeros(site.shape[0], dtype=torch.float64)
    for touch, gram in _grams(site, graph).items():
        if gram in stats:
            places = stats[gram][0].diagonal().reshape(len(touch.index), -1).sum(1).double().cpu()
            total += _summed(site, touch, places / places.sum().clamp(min=1e-30))
    return total


def _summed(site: Site, touch: Touch, values: Tensor) -> Tensor:
    """values [positions] summed per class: [classes]."""
    index = torch.tensor(touch.index)
    zero = torch.zeros(site.shape[0], dtype=torch.float64)
    return zero.index_add(0, index[index >= 0], values[index >= 0])


def _grams(site: Site, graph: Graph) -> dict[Touch, Gram]:
    """What is to be known of the input of every layer that reads the group."""
    reads: Iterable[Touch] = (t for t in site.touches if t.role == "in")
    return {t: gram_of(graph.layer(t.module)) for t in reads}


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight.detach()


def _output_size(module: str, graph: Graph) -> int:
    for layer in graph.layers:
        if layer.module == module:
            return layer.weight[0]
    for site in graph.sites:
        for touch in site.touches:
            if touch.module == module and touch.role == "norm":
                return count((len(touch.index),))
    raise InputError(f"{module!r} is neither a layer nor a norm of this network")


def space(graph: Graph, target: Target) -> Space:
    """Every free channel group in the target's steps, down to a quarter of its channels."""
    choices = []
    for site in graph.sites:
        if site.kind != "channels" or site.fixed:
            continue
        size = site.shape[0]
        step = max(1, target.channel_step(size))
        counts = [n for n in range(size, 0, -1) if n == size or (n % step == 0 and 4 * n >= size)]
        options = tuple(Keep(ratio=n / size) for n in counts)
        if len(options) > 1:
            choices.append(Choice(site=site.name, options=options))
    return Space(graph=graph, choices=tuple(choices))
