"""Pieces: where a plan's recovery can be cut, since nothing before depends on what comes after.

Rounding in order and learning unit by unit go through a network once, in execution order.  What
they make of a module depends on the options of modules that start before its piece ends, and on no
other: plans that begin alike share it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from allot.option import Option
from allot.reconstruct.learning import Learning
from allot.reconstruct.units import Unit, blocks
from allot.recover import Recovery
from allot.site import Graph


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Modules that start at or after `start` and before `end`, moments in `graph.order`."""

    graph: Graph = field(repr=False)
    start: float
    end: float

    def holds(self, module: str) -> bool:
        """Whether the module starts in the piece; one that does not run is in the last."""
        return self.start <= self._begin(module) < self.end or (
            self.end == math.inf and self._begin(module) == math.inf
        )

    def options(self, options: Mapping[str, Option]) -> dict[str, Option]:
        """The options that decide what the piece becomes: its own and those before it.

        An original option changes nothing.
        """
        return {
            name: option
            for name, option in options.items()
            if not option.is_original
            and (
                self.end == math.inf
                or any(self._begin(t.module) < self.end for t in self.graph.site(name).touches)
            )
        }

    def _begin(self, module: str) -> float:
        found = (i for i, event in enumerate(self.graph.order) if event == (module, "start"))
        return next(found, math.inf)


def pieces(graph: Graph, recovery: Recovery) -> tuple[Piece, ...]:
    """The pieces of a network for the last stage of a recovery, in execution order.

    The whole network where a layer is called more than once, where units do not follow one
    another, and where what is learned of one depends on all (see `Learning.units`).
    """
    starts = [name for name, event in graph.order if event == "start"]
    units = blocks(graph)
    if recovery.learning is not None:
        assert isinstance(recovery.learning, Learning)
        units = recovery.learning.units(graph)
    several = any(starts.count(x.module) > 1 for x in graph.layers)
    cuts = () if several else _cuts(graph, units)
    bounds = [0.0, *cuts, math.inf]
    return tuple(Piece(graph=graph, start=a, end=b) for a, b in pairwise(bounds))


def _cuts(graph: Graph, units: tuple[Unit, ...]) -> tuple[int, ...]:
    """Where units but the first start; none where one starts before another ends."""
    spans = []
    for unit in units:
        at = [i for i, (name, _) in enumerate(graph.order) if name in unit]
        spans.append((min(at), max(at)))
    apart = all(end < start for (_, end), (start, _) in pairwise(spans))
    return tuple(start for start, _ in spans[1:]) if apart else ()
