"""Choices of the benchmark's spaces: options tied over several sites of a graph."""

from __future__ import annotations

from collections.abc import Sequence

from allot.num.rounding import Rounding
from allot.option import Option
from allot.options.depth import Skip
from allot.options.precision import Activation, Weight
from allot.site import Graph
from allot.space import Choice


def tied(names: Sequence[str], options: Sequence[Option]) -> Choice:
    """One choice for several sites, named after the first."""
    return Choice(site=names[0], tied=tuple(names[1:]), options=tuple(options))


def weights(modules: Sequence[str], bits: Sequence[int], rounding: Rounding) -> Choice:
    """The bits of some layers' weights, all alike."""
    options = [Weight(bits=b, rounding=rounding) for b in bits]
    return tied([f"{m}.weight" for m in modules], options)


def activations(readers: Sequence[str], bits: Sequence[int]) -> Choice:
    """The bits of the tensors that some layers read, all alike."""
    return tied([f"{m}.input" for m in readers], [Activation(bits=b) for b in bits])


def skip(block: str) -> Choice:
    """Whether a block is there."""
    return Choice(site=f"{block}.block", options=(Skip(drop=False), Skip(drop=True)))


def depth(graph: Graph, start: str) -> int:
    """Number of transformer layers, whose modules' names start so."""
    return 1 + max(
        int(x.module.removeprefix(start).split(".")[0])
        for x in graph.layers
        if x.module.startswith(start)
    )


def inputs(graph: Graph, modules: Sequence[str]) -> list[str]:
    """Of some layers, the first reader of each tensor that they read."""
    sites = dict.fromkeys(graph.layer(m).input for m in modules)
    return [s.removesuffix(".input") for s in sites]
