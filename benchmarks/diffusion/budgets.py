"""Budgets: the joint search against each axis alone, the axes stacked, and published recipes.

Everything is judged by the Frechet distance to the original's samples at fresh noises.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch

from allot.judging.frechet import distance, moments, reweighted
from allot.judging.resampled import estimate
from allot.option import Option
from allot.options.steps import Drop, Reuse
from allot.recipes.decoupled import mixdq
from allot.recipes.timesteps import tmpq
from allot.searchers.over_time import PACE, SINGLE, Pace, Search
from allot.space import Point
from allot.table import Array
from allot.trials import Limits, Trials
from benchmarks.diffusion.cachequant import cachequant
from benchmarks.diffusion.networks import NETWORKS
from benchmarks.diffusion.searched import SHARES, STAGES, Searched, searched
from benchmarks.figures import Figure, at_least, at_most

JOINT, NAIVE = "joint", "stacked"
BELOW_ALL = 2
MINUTES = 30.0


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """One plan of one budget. cost: its share of the BitOPs of all in 8 bits.  features: of its
    samples at the test noises, [n, d]."""

    name: str
    cost: float
    features: Array


def run(quick: bool, seed: int) -> dict[str, Figure]:
    """Both networks; a quick run takes the first one and fewer of everything."""
    found: dict[str, Figure] = {}
    for name in NETWORKS[:1] if quick else NETWORKS:
        s = searched(name, quick=quick, seed=seed)
        found |= time(s, seed=seed)
        found |= restricted(s, seed=seed)
        found |= published(s, quick=quick, seed=seed)
    return found


def time(s: Searched, *, seed: int) -> dict[str, Figure]:
    """Minutes of one core that the search took, and the share of each stage."""
    total = sum(s.seconds.values())
    return {
        f"{s.network.task.name}: minutes of a whole search": at_most(
            total / 60, MINUTES, n=len(s.trials.plans), seeds=[seed],
            shares={k: round(v / total, 3) for k, v in s.seconds.items()} if total else {},
            stages=list(STAGES), front=len(s.trials.front().points),
        )
    }  # fmt: skip


def restricted(s: Searched, *, seed: int) -> dict[str, Figure]:
    """The joint search against its own restrictions and the axes stacked, at every budget."""
    name, original = s.network.task.name, _original(s)
    found: dict[str, Figure] = {}
    below, stacks = 0, Stack.of(s)
    for share, limits in zip(SHARES, s.trials.levels, strict=True):
        best = s.trials.best(limits)
        if best is None:
            continue
        joint, rivals = _judged(s, JOINT, best.point), list(alone(s, limits))
        stack = stacks.within(share)
        rivals += [] if stack is None else [_judged(s, NAIVE, stack)]
        if rivals:
            figure = _over_best(joint, rivals, original, seed=seed)
            found[f"{name} at {share:.0%}: Frechet over the best restriction"] = figure
            below += figure["value"] < 1
    found[f"{name}: budgets below all restrictions"] = at_least(
        below, BELOW_ALL, n=len(SHARES), seeds=[seed]
    )
    return found


def published(s: Searched, *, quick: bool, seed: int) -> dict[str, Figure]:
    """The joint search against published methods, at every budget that one of them reaches."""
    name, original = s.network.task.name, _original(s)
    rivals = dict(recipes(s, quick=quick, seed=seed))
    found: dict[str, Figure] = {}
    for share, limits in zip(SHARES, s.trials.levels, strict=True):
        best = s.trials.best(limits)
        if best is not None and rivals[share]:
            joint = _judged(s, JOINT, best.point)
            figure = _over_best(joint, rivals[share], original, seed=seed)
            found[f"{name} at {share:.0%}: Frechet over the best recipe"] = figure
    return found


def _over_best(joint: Judged, rivals: Sequence[Judged], original: Array, *, seed: int) -> Figure:
    """The ratio to the rival of the least Frechet distance, with all distances and costs."""
    frechet = {j.name: _frechet(original, j.features) for j in (joint, *rivals)}
    least = min(rivals, key=lambda j: frechet[j.name])
    cost = {j.name: j.cost for j in (joint, *rivals)}
    return _against(joint, least, original, seed=seed) | {"frechet": frechet, "cost": cost}


def _original(s: Searched) -> Array:
    return s.features(s.network.space.original, s.network.task.certify, "certify")


def _against(joint: Judged, rival: Judged, original: Array, *, seed: int) -> Figure:
    """Ratio of Frechet distances, with the paired interval of their difference."""
    mine, other = _frechet(original, joint.features), _frechet(original, rival.features)
    a, b, was = (torch.from_numpy(x) for x in (joint.features, rival.features, original))
    apart = estimate(
        lambda c: distance(reweighted(was, c), reweighted(a, c))
        - distance(reweighted(was, c), reweighted(b, c)),
        len(was), seed=seed,
    )  # fmt: skip
    same = np.array_equal(joint.features, rival.features)
    return at_most(
        1.0 if same else mine / other, 1.0, n=len(was), seeds=[seed],
        difference=[apart.low, apart.high], best=rival.name,
    )  # fmt: skip


def _frechet(original: Array, features: Array) -> float:
    a, b = (moments(torch.from_numpy(x)) for x in (original, features))
    return float(distance(a, b))


def _judged(s: Searched, name: str, point: Point) -> Judged:
    features = s.features(point, s.network.task.certify, "certify")
    cost = s.trials.bills["bitops"].of(point) / s.eight
    return Judged(name=name, cost=cost, features=features)


def alone(s: Searched, limits: Limits) -> Iterator[Judged]:
    """The best plan measured of every axis alone, where one reaches the budget."""
    search = Search.of(s.trials, [s.harm], seed=0, pace=PACE)
    for name in SINGLE:
        best = search.best(name, limits)
        if best is not None:
            yield _judged(s, name, best)


@dataclass(frozen=True, kw_only=True, eq=False)
class Stack:
    """Axes that are tuned alone. least: the fewest BitOPs that each can be tuned for."""

    s: Searched
    search: Search
    least: Mapping[str, float]

    @staticmethod
    def of(s: Searched) -> Stack:
        search = Search.of(s.trials, [s.harm], seed=0, pace=Pace(moves=300))
        return Stack(s=s, search=search, least={n: _least(s, search, n) for n in SINGLE})

    def within(self, share: float) -> Point | None:
        """Each axis tuned alone for a root of the budget, then all applied together.

        An axis that does not come so far gives what it can, and the others the more.  None where
        all together do not reach the budget.
        """
        low, high = share, 1.0
        found: Point | None = None
        for _ in range(7):
            middle = 0.5 * (low + high)
            point = self.together(middle)
            if self.s.trials.bills["bitops"].of(point) <= share * self.s.eight:
                found, low = point, middle
            else:
                high = middle
        return found or self._last(share)

    def _last(self, share: float) -> Point | None:
        point = self.together(share)
        return point if self.s.trials.fits(point, {"bitops": share * self.s.eight}) else None

    def together(self, each: float) -> Point:
        """The plans of all axes at a share of their own, or at the least they can, as one."""
        plans = []
        for name in SINGLE:
            limit = max(each * self.s.eight, self.least[name] * (1 + 1e-9))
            plans.append(self.search.predicted(name, {"bitops": limit}) or self.s.harm.mild)
        choices = self.s.network.space.choices
        return tuple(
            _met([c.options[p[i]] for p in plans], [p[i] for p in plans])
            for i, c in enumerate(choices)
        )


def _met(options: Sequence[Option], at: Sequence[int]) -> int:
    """A step left out by one axis is left out; else it reuses where one says so; else the bits."""
    for kind in (Drop, Reuse):
        for option, o in zip(options, at, strict=True):
            if isinstance(option, kind):
                return o
    return at[SINGLE.index("bits")]


def _least(s: Searched, search: Search, name: str) -> float:
    """The fewest BitOPs that an axis alone is searched at."""
    if name == "bits":
        return s.trials.bills["bitops"].of([max(a) for a in search.allowed(name)])
    low, high = 0.05, 1.0
    for _ in range(5):
        middle = 0.5 * (low + high)
        ground = search.ground(name, {"bitops": middle * s.eight}, None)
        found = ground.begin([s.harm.mild[i] for i in search.bill.weights])
        low, high = (low, middle) if found is not None else (middle, high)
    return high * s.eight


def recipes(s: Searched, *, quick: bool, seed: int) -> Iterator[tuple[float, list[Judged]]]:
    """Published methods at every budget that they reach."""
    found: Mapping[float, list[Judged]] = {share: [] for share in SHARES}
    small: Callable[..., None] = functools.partial(tmpq, population=4, generations=2)
    for name, searcher in (("TMPQ-DM", small if quick else tmpq), ("MixDQ", mixdq)):
        trials = _fresh(s.trials)
        searcher(trials, harm=[], seed=seed)
        for share, limits in zip(SHARES, trials.levels, strict=True):
            best = trials.best(limits)
            if best is not None:
                found[share].append(_judged(s, name, best.point))
    for share in SHARES:
        for point, features in cachequant(s, share):
            cost = s.trials.bills["bitops"].of(point) / s.eight
            found[share].append(Judged(name="CacheQuant", cost=cost, features=features))
    yield from found.items()


def _fresh(trials: Trials) -> Trials:
    """The same evaluator and levels, nothing measured yet."""
    return replace(trials, plans={}, losses={}, trace=[])
