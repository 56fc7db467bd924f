"""Weights: which choices are about weights alone, and how far every option moves them."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor, nn

from allot.bank import Bank
from allot.option import Option
from allot.options.standins import OnGrid
from allot.site import Graph
from allot.space import Choice, Space
from allot.sweep import unwrapped
from allot.table import Array


def weight_choices(space: Space) -> tuple[int, ...]:
    """Positions of the choices whose sites are all weights."""
    return tuple(
        i
        for i, c in enumerate(space.choices)
        if all(space.graph.site(s).kind == "weight" for s in sites(c))
    )


def sites(choice: Choice) -> tuple[str, ...]:
    """The site of a choice and those tied to it."""
    return (choice.site, *choice.tied)


def modules(space: Space, at: Sequence[int]) -> tuple[str, ...]:
    """The modules whose weights the choices are about, each once, in the graph's order."""
    found = {module_of(space.graph, s) for i in at for s in sites(space.choices[i])}
    return tuple(x.module for x in space.graph.layers if x.module in found)


def module_of(graph: Graph, site: str) -> str:
    """The module that holds the weight of a site."""
    return graph.site(site).touches[0].module


def weight(module: nn.Module) -> Tensor:
    """The weight that a layer, or what stands in for it, computes with."""
    inner = unwrapped(module)
    return (inner.inner if isinstance(inner, OnGrid) else inner).get_parameter("weight")


def squared_error(bank: Bank, site: str, option: Option) -> float:
    """Squared norm of the change that an option, as the bank encodes it, makes in a weight."""
    if option.is_original:
        return 0.0
    name = module_of(bank.graph, site)
    before = weight(bank.module(name)).double()
    after = weight(bank.standins({site: option})[name]).double()
    return float((after - before).square().sum())


def weigh_by(bank: Bank, choice: Choice, factors: Mapping[str, float]) -> Array:
    """Squared error of every option times a factor per module, summed over tied sites: [n]."""
    return np.array(
        [
            sum(
                factors[module_of(bank.graph, s)] * squared_error(bank, s, o) for s in sites(choice)
            )
            for o in choice.options
        ]
    )


def copies(bank: Bank, names: Sequence[str]) -> dict[str, nn.Module]:
    """Copies of the original layers, to stand in for them while their weights are worked on."""
    return {name: copy.deepcopy(bank.module(name)) for name in names}
