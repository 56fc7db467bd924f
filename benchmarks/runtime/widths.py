"""Widths: spaces of floats or 8 bits, and of channels in steps of an eighth."""

from __future__ import annotations

from allot.options import precision, width
from allot.site import Graph
from allot.space import Point, Space
from allot.target import Target


def formats(graph: Graph, target: Target) -> Space:
    """Weights and tensors in float or 8 bits: fewer bits are stored, and compute as 8 do."""
    kept = ("float", "W8", "A8")
    found = precision.space(graph, target)
    return found.only(lambda option, site: "" if option.label in kept else "as fast as 8 bits")


def widths(graph: Graph, target: Target) -> Space:
    """Groups of channels in steps of an eighth that the target has kernels for."""
    found = width.space(graph, target).only(
        lambda option, site: "" if (8 * option.ratio) % 1 == 0 else "few steps are enough"  # type: ignore[attr-defined]
    )
    return found.only(lambda option, site: target.can(option, site, graph))


def eight(space: Space) -> Point:
    """8 bits everywhere, at full width."""
    kinds = [space.graph.site(c.site).kind for c in space.choices]
    return tuple(
        int(kind != "channels" and len(c.options) > 1)
        for kind, c in zip(kinds, space.choices, strict=True)
    )


def changed(space: Space, point: Point) -> dict[str, str]:
    """Where a plan is not of 8 bits at full width."""
    return {
        c.site: c.options[k].label
        for c, k, e in zip(space.choices, point, eight(space), strict=True)
        if k != e
    }
