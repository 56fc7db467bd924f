"""Units: modules of a network whose codes are learned together."""

from __future__ import annotations

import difflib
from abc import abstractmethod
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from allot.errors import InputError
from allot.part import Part
from allot.site import Graph

# names of modules that run one after another, the first input of each the output of the one before
Unit = tuple[str, ...]


class Units(Part):
    """A rule that names the units of a network."""

    @abstractmethod
    def of(self, graph: Graph) -> tuple[Unit, ...]:
        """The units in execution order."""


@dataclass(frozen=True, kw_only=True)
class Layers(Units):
    """Every layer, with the batch norm behind it where there is one."""

    def of(self, graph: Graph) -> tuple[Unit, ...]:
        return layers(graph)


@dataclass(frozen=True, kw_only=True)
class Blocks(Units):
    """Every residual block or transformer layer; what lies outside any: see `blocks`."""

    def of(self, graph: Graph) -> tuple[Unit, ...]:
        return blocks(graph)


@dataclass(frozen=True, kw_only=True)
class Named(Units):
    """The modules of these names; everything else stays as it is."""

    units: tuple[Unit, ...]

    def of(self, graph: Graph) -> tuple[Unit, ...]:
        return named(graph, self.units)


def layers(graph: Graph) -> tuple[Unit, ...]:
    """Every layer, with the batch norm that alone reads it."""
    return _sorted(graph, (_alone(graph, x.module) for x in graph.layers))


def blocks(graph: Graph) -> tuple[Unit, ...]:
    """The blocks that the graph knows, whether or not they may be dropped.

    Layers outside them (a network without shortcuts, blocks that change the shape) go by the
    outermost module that is called, holds several layers and no block; else each is a unit.
    """
    found = {s.touches[0].module for s in graph.sites if s.kind == "block"}
    names = [x.module for x in graph.layers]
    called = {n for n, _ in graph.order}
    units: dict[Unit, None] = {(b,): None for b in found}
    for name in names:
        if not any(_holds(b, name) for b in found):
            outer = (m for m in _above(name) if m in called)
            several = (m for m in outer if sum(_holds(m, n) for n in names) > 1)
            group = next((m for m in several if not any(_holds(m, b) for b in found)), "")
            units[(group,) if group else _alone(graph, name)] = None
    return _sorted(graph, units)


def named(graph: Graph, units: Iterable[Unit]) -> tuple[Unit, ...]:
    """The units of these names in execution order.

    Raises InputError for a name that is no module of the network, with those that are near.
    """
    units = tuple(units)
    called = list(dict.fromkeys(n for n, _ in graph.order))
    for name in (n for unit in units for n in unit):
        if name not in called:
            near = difflib.get_close_matches(name, called, n=3, cutoff=0.0)
            raise InputError(
                f"no module {name!r} runs in the network; there are, for example, {', '.join(near)}"
            )
    if not all(units):
        raise InputError("a unit is one or more names of modules; an empty one was given")
    return _sorted(graph, units)


def inside(graph: Graph, unit: Unit) -> tuple[str, ...]:
    """Modules of a unit, itself among them, in the order in which they start."""
    starts = dict.fromkeys(n for n, event in graph.order if event == "start")
    return tuple(n for n in starts if any(n == u or _holds(u, n) for u in unit))


def _alone(graph: Graph, layer: str) -> Unit:
    norm = graph.layer(layer).norm
    return (layer, norm) if norm else (layer,)


def _holds(module: str, name: str) -> bool:
    return name.startswith(f"{module}.")


def _above(name: str) -> Iterator[str]:
    """Names of the modules around one, the outermost first."""
    parts = name.split(".")
    return (".".join(parts[:i]) for i in range(1, len(parts)))


def _sorted(graph: Graph, units: Iterable[Unit]) -> tuple[Unit, ...]:
    when = {n: i for i, (n, _) in reversed(list(enumerate(graph.order)))}
    return tuple(sorted(dict.fromkeys(units), key=lambda u: when[u[0]]))
