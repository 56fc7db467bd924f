"""Trie: in which order plans share their beginnings, and what each then costs.

Choices are ordered by the first module that they touch.  A batch of points is sorted so; what a
point has in common with the one before it is replayed, so that it pays only for the layers at or
after the first module of the first choice that differs.  Everything here needs the space alone:
a replay of stored losses counts in exactly the same way.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from allot.space import Choice, Point, Space


@dataclass(frozen=True, kw_only=True)
class Trie:
    """Choices of a space in execution order.

    order: positions of the choices.  starts: of each choice in that order, where in `graph.order`
    the first module that it touches starts.  tails: share of the network's MACs that lies in
    layers at or after that module; falls from at most 1.
    """

    order: tuple[int, ...]
    starts: tuple[int, ...]
    tails: tuple[float, ...]

    def path(self, point: Point) -> tuple[int, ...]:
        """The point's options in execution order; sorting by it makes neighbours share most."""
        return tuple(point[i] for i in self.order)

    def fork(self, a: Point, b: Point) -> int:
        """Rank, in execution order, of the first choice that differs; len(order) for equals."""
        for rank, i in enumerate(self.order):
            if a[i] != b[i]:
                return rank
        return len(self.order)

    def tail(self, a: Point, b: Point) -> float:
        """Share of the MACs that running b after a costs."""
        rank = self.fork(a, b)
        return self.tails[rank] if rank < len(self.order) else 0.0


def trie(space: Space) -> Trie:
    """The choices of a space in execution order, with what follows each."""
    last = {name: i for i, (name, event) in enumerate(space.graph.order) if event == "start"}
    whole = sum(x.macs for x in space.graph.layers)
    starts = [_start(space, c) for c in space.choices]
    order = sorted(range(len(starts)), key=lambda i: (starts[i], i))
    return Trie(
        order=tuple(order),
        starts=tuple(starts[i] for i in order),
        # a layer called again after the choice runs as a whole
        tails=tuple(
            sum(x.macs for x in space.graph.layers if last[x.module] >= starts[i]) / whole
            for i in order
        ),
    )


def first_starts(order: Iterable[tuple[str, str]]) -> dict[str, int]:
    """Module -> where in `graph.order` it first starts."""
    found: dict[str, int] = {}
    for i, (name, event) in enumerate(order):
        if event == "start":
            found.setdefault(name, i)
    return found


def touched(space: Space, choice: Choice) -> list[str]:
    """Modules that the sites of a choice touch, tied ones too."""
    sites = (space.graph.site(s) for s in (choice.site, *choice.tied))
    return list(dict.fromkeys(t.module for s in sites for t in s.touches))


def _start(space: Space, choice: Choice) -> int:
    """Where in `graph.order` the first module that a choice touches starts."""
    begun = first_starts(space.graph.order)
    found = [begun[m] for m in touched(space, choice) if m in begun]
    return min(found, default=len(space.graph.order))


def wanted(share: float, samples: int) -> int:
    """Samples in the first share of them: rounded up, at least one."""
    # 0.1 * 30 lies above the 3 that it stands for
    return max(1, math.ceil(share * samples - 1e-9))


def opening(space: Space, *, samples: int, calibration: int) -> float:
    """F spent before the first plan: the original's own pass.

    Where the first options are not the originals, the space's first point is a plan of its own,
    recovered and run once; all others start from it.
    """
    pinned = any(not c.options[0].is_original for c in space.choices)
    return 2.0 + calibration / samples if pinned else 1.0


def batch_costs(
    tree: Trie,
    points: Sequence[Point],
    *,
    original: Point,
    known: Mapping[Point, int],
    want: int,
    samples: int,
    calibration: int,
) -> list[float]:
    """F that every point costs when they are measured as one batch on the first `want` samples.

    original: the space's (all zeros).  known: samples on which a point was measured before; those
    that need the same rest are run one after the other from the original.  samples: in the whole
    search set.  calibration: inputs that recovery sees; run again for a point whose samples are
    completed.
    """
    paid: dict[Point, float] = {}
    for done, group in batches(tree, points, known=known, want=want):
        before = original
        for p in group:
            paid[p] = tree.tail(before, p) * (want - done + calibration) / samples
            before = p
    # the second of two equal points is free
    return [paid.pop(p, 0.0) for p in points]


def batches(
    tree: Trie, points: Sequence[Point], *, known: Mapping[Point, int], want: int
) -> list[tuple[int, list[Point]]]:
    """(samples already seen, points that lack the rest, sorted by path), each point once."""
    lacking = {p: known.get(p, 0) for p in points if known.get(p, 0) < want}
    ordered = sorted(lacking, key=lambda p: (lacking[p], tree.path(p)))
    return [(done, list(group)) for done, group in groupby(ordered, key=lacking.__getitem__)]


def enumeration_cost(tree: Trie, counts: Sequence[int]) -> float:
    """F of all points of a space with the original's own pass: sum over d of c_d k_1 ... k_d.

    c_d: tail of choice d less that of the next; what precedes every choice is run once.
    """
    cost, points = 1.0 - max(tree.tails, default=0.0), 1
    for rank, i in enumerate(tree.order):
        points *= counts[i]
        after = tree.tails[rank + 1] if rank + 1 < len(tree.order) else 0.0
        cost += (tree.tails[rank] - after) * points
    return cost
