"""Alone: what the evaluator says of options one at a time; fills the gaps of narrower signals."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from allot.harm.single import measured, only
from allot.scene import Scene
from allot.space import Space
from allot.table import Array, Table, Term


def alone(
    scene: Scene, at: Sequence[int], *, progress: Callable[[float], None] = lambda share: None
) -> tuple[float, dict[int, Array]]:
    """Divergence [nats] of the space's first point, and what every option of the choices adds.

    Signed, after the evaluator's recovery, with all other choices at their first option; the
    first option itself adds 0, what it loses against the float original is in the first number.
    """
    space = scene.space
    points = [space.original]
    points += [only(space.original, {i: o}) for i in at for o in range(1, space.counts[i])]
    base, *found = measured(scene, points, progress=progress)
    values, start = {}, 0
    for i in at:
        stop = start + space.counts[i] - 1
        values[i] = np.array([0.0, *(d - base for d in found[start:stop])])
        start = stop
    return base, values


def completed(scene: Scene, found: Mapping[int, Array], *, origin: str) -> Table:
    """The table of a signal that knows some choices; the others are measured one at a time.

    found: choice -> values [n], against the float original.  A measured harm is never below 0.
    The constant is what the first options of measured choices lose together: the measured
    divergence of the first point less what `found` says of it.
    """
    space = scene.space
    rest = _unknown(space, found)
    terms, constant = dict(found), 0.0
    if rest:
        base, others = alone(scene, rest)
        terms |= {i: np.maximum(v, 0.0) for i, v in others.items()}
        if not all(space.choices[i].options[0].is_original for i in rest):
            constant = max(0.0, base - float(sum(v[0] for v in found.values())))
        kinds = sorted({space.graph.site(space.choices[i].site).kind for i in rest})
        origin += f"; {', '.join(kinds)} measured one at a time, {scene.evaluator.recovery}"
    rows = tuple(Term(at=(i,), values=terms[i]) for i in range(len(space.counts)))
    return Table(unit="nat", origin=origin, constant=constant, terms=rows)


def in_measured_unit(scene: Scene, found: Mapping[int, Array]) -> dict[int, Array]:
    """Values to stand beside measured ones: brought to nats after recovery by one factor.

    The plan with the middle option at every choice of `found` is measured, and what it adds to
    the first point is what the values say after that.  As they are where no choice is left to be
    measured, and where they say nothing of that plan.
    """
    middle = {i: len(v) // 2 for i, v in found.items()}
    said = float(sum(v[middle[i]] - v[0] for i, v in found.items()))
    if said <= 0 or not _unknown(scene.space, found):
        return dict(found)
    points = [scene.space.original, only(scene.space.original, middle)]
    base, loss = measured(scene, points)
    return {i: v * max(0.0, loss - base) / said for i, v in found.items()}


def _unknown(space: Space, found: Mapping[int, Array]) -> list[int]:
    return [i for i in range(len(space.counts)) if i not in found]
