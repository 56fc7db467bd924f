"""Synthetic: spaces whose truth is a formula, so that every plan and the best one are known."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from allot.measure import Loss
from allot.space import Point
from allot.table import Array, Table, Term, Vectors
from allot.trials import Limits, Trials
from tests.toy_space import space


@dataclass(frozen=True, kw_only=True, eq=False)
class Truth:
    """Per-sample divergence of every point, without noise: q = u^2 / 2 with u the sum of the
    point's columns of `first`; q (1 + tanh(v)) with v the sum of those of `second` (third order
    and beyond); c (1 - exp(-q / c)) with c = cap, at which destruction saturates.
    """

    first: Vectors
    second: Vectors | None = None
    cap: float = np.inf

    @property
    def counts(self) -> tuple[int, ...]:
        return self.first.counts

    def divergences(self, points: Sequence[Point]) -> Array:
        """[points, samples]"""
        found = 0.5 * _sums(self.first, points) ** 2
        if self.second is not None:
            found = found * (1 + np.tanh(_sums(self.second, points)))
        return found if np.isinf(self.cap) else self.cap * (1 - np.exp(-found / self.cap))

    @cached_property
    def points(self) -> list[Point]:
        return list(itertools.product(*map(range, self.counts)))

    @cached_property
    def means(self) -> Array:
        """Mean divergence of every one of `points`."""
        return np.concatenate(
            [
                self.divergences(self.points[i : i + 4096]).mean(1)
                for i in range(0, len(self.points), 4096)
            ]
        )

    def alone(self) -> Table:
        """The measured divergence of every option on its own, as a separable table."""
        zero = (0,) * len(self.counts)
        terms = []
        for i, n in enumerate(self.counts):
            points = [(*zero[:i], o, *zero[i + 1 :]) for o in range(n)]
            terms.append(Term(at=(i,), values=self.divergences(points).mean(1)))
        return Table(unit="nat", origin="one at a time", terms=tuple(terms))

    def fisher(self) -> Table:
        """Half squares of the first order, with all pairs as vectors."""
        terms = (Term(at=(i,), values=self.first.half_squares(i)) for i in range(len(self.counts)))
        return Table(unit="nat", origin="fisher", terms=tuple(terms), vectors=self.first)

    def best(self, bills: Mapping[str, Table], limits: Limits) -> tuple[Point, float]:
        """The point of least mean divergence within limits, by looking at every one."""
        inside = np.ones(len(self.points), dtype=bool)
        for name, limit in limits.items():
            inside &= _of(bills[name], self._index) <= limit
        at = int(np.argmin(np.where(inside, self.means, np.inf)))
        assert inside[at]
        return self.points[at], float(self.means[at])

    @cached_property
    def _index(self) -> NDArray[np.intp]:
        return np.asarray(self.points, dtype=np.intp)


def _of(table: Table, points: NDArray[np.intp]) -> Array:
    """What a table says of points [m, choices]: [m]."""
    total = np.zeros(len(points))
    for t in table.terms:
        total += t.values[tuple(points[:, i] for i in t.at)]
    return total + table.constant


def _sums(vectors: Vectors, points: Sequence[Point]) -> Array:
    starts = np.concatenate([[0], np.cumsum(vectors.counts)[:-1]])
    return np.asarray(vectors.values[:, np.asarray(points) + starts].sum(2).T)


def truth(
    counts: Sequence[int] = (3,) * 6,
    *,
    seed: int = 0,
    samples: int = 64,
    coupling: float = 0.4,
    third: float = 0.0,
    destructive: Sequence[int] = (),
) -> Truth:
    """A truth by seed, options of a choice from mild to harsh.

    coupling: how much all columns share one direction; at 0 the columns of different choices are
    orthogonal, so that the mean divergence is exactly a sum over choices.  third: size of what no
    pair term can say.  destructive: choices whose last option ruins the output alone; with any,
    divergences saturate.
    """
    g = np.random.default_rng(seed)
    width = sum(counts)
    assert samples >= width + 1
    own = np.linalg.qr(g.normal(size=(samples, width + 1)))[0] * np.sqrt(samples)
    columns = []
    for i, n in enumerate(counts):
        size = 0.05 * np.exp(g.normal(0, 0.8))
        for o in range(n):
            scale = 0.0 if o == 0 else size * 2.2**o * np.exp(g.normal(0, 0.2))
            if o and o == n - 1 and i in destructive:
                scale = 6.0
            mixed = own[:, len(columns)] * np.sqrt(1 - coupling**2) + coupling * own[:, -1]
            columns.append(scale * mixed)
    first = Vectors(values=np.stack(columns, 1), counts=tuple(counts))
    bent = third * g.normal(size=first.values.shape) * (first.values.any(0))
    return Truth(
        first=first,
        second=Vectors(values=bent, counts=tuple(counts)) if third else None,
        cap=4.0 if destructive else np.inf,
    )


class Evaluator:
    """Says what the truth says and counts F as a real evaluator does.

    tails: share of a pass that runs from each choice on to the end; all 1 where not given, so
    that nothing is replayed.
    """

    def __init__(self, truth: Truth, *, tails: Sequence[float] = ()) -> None:
        self.truth = truth
        self.space = space(truth.counts)
        self.samples = len(truth.first.values)
        self.recovery = "none"
        self.tails = tuple(tails) or (1.0,) * len(truth.counts)
        self.shares: dict[Point, float] = {}
        self._spent = 0.0

    @property
    def spent(self) -> float:
        return self._spent

    def charge(self, passes: float) -> None:
        self._spent += passes

    def costs(self, points: Sequence[Point], *, share: float = 1.0) -> list[float]:
        owed: dict[Point, float] = {}
        before = self.space.original
        for p in sorted(set(points)):
            rest = max(0.0, share - self.shares.get(p, 0.0))
            if rest:
                owed[p] = rest * min(self._tail(before, p), self._tail(self.space.original, p))
                before = p
        return [owed.pop(p, 0.0) for p in points]

    def losses(self, points: Sequence[Point], *, share: float = 1.0) -> list[Loss]:
        self._spent += sum(self.costs(points, share=share))
        for p in points:
            self.shares[p] = max(share, self.shares.get(p, 0.0))
        if not points:
            return []
        found = self.truth.divergences(points)[:, : max(1, round(share * self.samples))]
        return [
            Loss(divergences=tuple(d.tolist()), scores=tuple(np.exp(-d).tolist())) for d in found
        ]

    def _tail(self, a: Point, b: Point) -> float:
        return next((t for t, x, y in zip(self.tails, a, b, strict=True) if x != y), 0.0)


def bills(counts: Sequence[int], *, seed: int = 0, products: bool = False) -> dict[str, Table]:
    """Bytes, which fall by half from option to option; with products, also bitops of neighbours."""
    g = np.random.default_rng(seed)
    sizes = g.integers(20, 400, len(counts)) * 32
    terms = [
        Term(at=(i,), values=np.array([float(s // 2**o) for o in range(n)]))
        for i, (n, s) in enumerate(zip(counts, sizes, strict=True))
    ]
    found = {"size": Table(unit="byte", origin="toy", constant=64.0, terms=tuple(terms))}
    if products:
        pairs = [
            Term(at=(i, i + 1), values=np.sqrt(np.outer(a.values, b.values)).round())
            for i, (a, b) in enumerate(itertools.pairwise(terms))
        ]
        found["bitops"] = Table(unit="bitop", origin="toy", terms=tuple(pairs))
    return found


def levels(bills: Mapping[str, Table], counts: Sequence[int], *, count: int = 8) -> list[Limits]:
    """Budgets from 90 % of the original down to a little above the cheapest, all bills at once."""
    top, low = (0,) * len(counts), tuple(n - 1 for n in counts)
    return [
        {k: b.of(low) * 1.1 + s * (0.9 * b.of(top) - b.of(low) * 1.1) for k, b in bills.items()}
        for s in np.linspace(1, 0, count).tolist()
    ]


def trials(
    truth: Truth,
    *,
    evaluations: float = np.inf,
    products: bool = False,
    count: int = 8,
    tails: Sequence[float] = (),
) -> Trials:
    """Trials over the truth with nothing measured yet."""
    found = bills(truth.counts, products=products)
    original = {k: b.of((0,) * len(truth.counts)) for k, b in found.items()}
    return Trials(
        evaluator=Evaluator(truth, tails=tails),
        bills=found,
        originals=original,
        levels=levels(found, truth.counts, count=count),
        evaluations=evaluations,
    )
