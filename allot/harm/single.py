"""Single: the measured divergence with one option switched on, after recovery."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from allot.scene import Scene
from allot.space import Point
from allot.table import Table, Term

# batches in which options are measured, so that progress can be told; each shares its beginnings
_PARTS = 8


def single(
    scene: Scene,
    *,
    progress: Callable[[float], None] = lambda share: None,
    share: float = 1.0,
) -> Table:
    """Mean divergence [nats] that every option alone adds to that of the space's first point.

    Additive from the original (as in Cai et al. 2020), but after recovery.  What the first point
    itself loses, where its options are no originals, is the constant.  No harm is below 0.
    share: of the search data, the first samples.
    """
    space = scene.space
    where = [(i, o) for i, n in enumerate(space.counts) for o in range(1, n)]
    points = [only(space.original, {i: o}) for i, o in where]
    base, *found = measured(scene, [space.original, *points], share=share, progress=progress)
    values = [np.zeros(n) for n in space.counts]
    for (i, o), divergence in zip(where, found, strict=True):
        values[i][o] = max(0.0, divergence - base)
    origin = f"one at a time, {scene.evaluator.recovery}"
    origin += "" if share == 1 else f", {share:.0%} of the samples"
    terms = tuple(Term(at=(i,), values=v) for i, v in enumerate(values))
    return Table(unit="nat", origin=origin, constant=base, terms=terms)


def only(point: Point, options: dict[int, int]) -> Point:
    """The point with some choices set to other options."""
    return tuple(options.get(i, o) for i, o in enumerate(point))


def measured(
    scene: Scene,
    points: list[Point],
    *,
    share: float = 1.0,
    progress: Callable[[float], None] = lambda share: None,
) -> list[float]:
    """Mean divergences [nats] of points, in a few batches of neighbours."""
    size, found = -(-len(points) // _PARTS), []
    for start in range(0, len(points), size):
        losses = scene.evaluator.losses(points[start : start + size], share=share)
        found += [x.divergence for x in losses]
        progress(len(found) / len(points))
    return found
