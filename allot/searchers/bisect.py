"""Bisect: options sorted by harm and switched on one after the other, as far as is allowed."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from allot.searchers.exhaust import spread
from allot.space import Point
from allot.table import Table
from allot.trials import Trials

# (choice, option), in the order in which they are switched on
Entry = tuple[int, int]
Order = Callable[[Trials, Table], list[Entry]]


def relative(trials: Trials, point: Point) -> float:
    """Mean over the bills of a plan's bill divided by the original's."""
    return float(np.mean([b.of(point) / trials.originals[k] for k, b in trials.bills.items()]))


def alone(trials: Trials, table: Table) -> list[list[float]]:
    """Sensitivity of every option: its own terms, and its mean meeting with what others may do.

    The second part is what an order can keep of pair terms (the row sums of the augmented
    Hessian, Schaefer et al. 2023); it is 0 for a table without.
    """
    counts = trials.space.counts
    full = table.with_pairs(len(counts) ** 2)
    found = [full.single(i, n) for i, n in enumerate(counts)]
    for t in full.terms:
        if len(t.at) == 2:
            found[t.at[0]] = found[t.at[0]] + t.values.mean(1)
            found[t.at[1]] = found[t.at[1]] + t.values.mean(0)
    return [f.tolist() for f in found]


def by_harm(trials: Trials, table: Table) -> list[Entry]:
    """All options of all choices in one list, least harm first (AIMET AMP)."""
    harm = alone(trials, table)
    entries = [(i, o) for i, n in enumerate(trials.space.counts) for o in range(1, n)]
    return sorted(entries, key=lambda e: (harm[e[0]][e[1]], e))


def by_option(trials: Trials, table: Table) -> list[Entry]:
    """The mildest option of all choices, least harm first; then the next one of all, and so on."""
    harm = alone(trials, table)
    entries = [(i, o) for i, n in enumerate(trials.space.counts) for o in range(1, n)]
    return sorted(entries, key=lambda e: (e[1], harm[e[0]][e[1]], e))


def prefixes(trials: Trials, entries: Sequence[Entry]) -> list[Point]:
    """The plans met while the entries are switched on in turn, the original first.

    An entry that makes nothing cheaper where it comes is left out.
    """
    points = [trials.space.original]
    for i, o in entries:
        here = points[-1]
        new = (*here[:i], o, *here[i + 1 :])
        if relative(trials, new) < relative(trials, here):
            points.append(new)
    return points


def listed(trials: Trials, *, harm: Sequence[Table], seed: int, order: Order = by_harm) -> None:
    """The walk down the list of the first table (AIMET AMP, Pandey et al. 2023).

    A budget is met by the shortest prefix within it: these are measured first, then the rest of
    the walk, which is where it ends.  Deviation: AIMET measures from the mild end and stops at an
    accuracy; bills need no measurement, so here a budget does not wait for its turn.
    seed: nothing is drawn.
    """
    points = prefixes(trials, order(trials, harm[0]))
    meeting = [next((p for p in points if trials.fits(p, v)), None) for v in trials.levels]
    ordered = [meeting[i] for i in spread(len(meeting))]
    trials.measure([p for p in dict.fromkeys(ordered) if p is not None])
    trials.measure(points)


def to_floor(trials: Trials, *, harm: Sequence[Table], seed: int, floor: float = 1.0) -> None:
    """The cheapest plan of the list whose metric is at most `floor` points below the original's.

    For every option index in turn, from mild to harsh, the choices are sorted by the harm of
    that option and the largest prefix within the floor is found by bisection (Schaefer et al.
    2023, arXiv 2306.04879); later indices start from what was kept.  It presumes that the metric
    falls along the list; where it does not, the plan found still holds the floor, as measured,
    but need not be the longest.  floor: in points, hundredths of the metric.  seed: nothing is
    drawn.
    """
    base = trials.space.original
    need = trials.measure([base])[0].metric - floor / 100
    entries = by_option(trials, harm[0])
    for option in sorted({o for _, o in entries}):
        stage = [e for e in entries if e[1] == option and e[0] in _kept(base, option)]
        base = _longest(trials, base, stage, need)


def floors(
    trials: Trials,
    *,
    harm: Sequence[Table],
    seed: int,
    points: Sequence[float] = (0.25, 1.0, 4.0, 16.0),
) -> None:
    """`listed` by option index, which meets every level, then `to_floor` at several floors."""
    listed(trials, harm=harm, seed=seed, order=by_option)
    for floor in points:
        to_floor(trials, harm=harm, seed=seed, floor=floor)


def _kept(base: Point, option: int) -> set[int]:
    """Choices that took the option before this one, or any choice where this is the first."""
    return {i for i, o in enumerate(base) if o == option - 1}


def _longest(trials: Trials, base: Point, stage: Sequence[Entry], need: float) -> Point:
    """The base with the longest prefix of the stage that holds the metric, by bisection."""
    points = [base]
    for i, o in stage:
        points.append((*points[-1][:i], o, *points[-1][i + 1 :]))
    good, bad = 0, len(points)
    while bad - good > 1:
        middle = (good + bad) // 2
        if trials.measure([points[middle]])[0].metric >= need:
            good = middle
        else:
            bad = middle
    return points[good]
