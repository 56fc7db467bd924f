"""Small random programs over a few choices, and the answer by looking at every point."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from allot.space import Point
from allot.table import Table, Term


@dataclass(frozen=True, kw_only=True)
class Instance:
    counts: tuple[int, ...]
    harm: Table
    bills: Mapping[str, Table]

    @cached_property
    def points(self) -> list[Point]:
        return list(itertools.product(*map(range, self.counts)))

    def value(self, point: Point, *, floor: bool) -> float:
        total = self.harm.of(point)
        alone = (self.harm.single(i, n)[point[i]] for i, n in enumerate(self.counts))
        return max(total, *alone) if floor else total

    def within(self, point: Point, limits: Mapping[str, float]) -> bool:
        return all(self.bills[k].of(point) <= limits[k] for k in limits)

    def best(
        self,
        limits: Mapping[str, float],
        *,
        floor: bool,
        excluded: Sequence[Point] = (),
        fixed: Mapping[int, int] | None = None,
    ) -> float:
        """Least harm over every point, inf where there is none."""
        chosen = (fixed or {}).items()
        return min(
            (
                self.value(p, floor=floor)
                for p in self.points
                if self.within(p, limits)
                and p not in excluded
                and all(p[i] == o for i, o in chosen)
            ),
            default=np.inf,
        )


def table(unit: str, terms: Sequence[Term], constant: float = 0.0) -> Table:
    return Table(unit=unit, origin="drawn", constant=constant, terms=tuple(terms))


def draw(rng: np.random.Generator, *, choices: int = 5, options: int = 3) -> Instance:
    """Harm over six decades with pair and triple terms of both signs, whole bytes, seconds."""
    counts = tuple(int(n) for n in rng.integers(1, options + 1, choices))
    counts = (options, options, *counts[2:])

    def scope() -> tuple[int, ...]:
        return tuple(sorted(rng.choice(choices, int(rng.integers(2, 4)), replace=False).tolist()))

    def shape(at: tuple[int, ...]) -> list[int]:
        return [counts[a] for a in at]

    harm = [Term(at=(i,), values=10 ** rng.uniform(-6, 1, n)) for i, n in enumerate(counts)]
    size = [
        Term(at=(i,), values=rng.integers(0, 1000, n).astype(float)) for i, n in enumerate(counts)
    ]
    seconds = [Term(at=(i,), values=rng.random(n)) for i, n in enumerate(counts)]
    for _ in range(int(rng.integers(1, 5))):
        at = scope()
        scale = 10 ** rng.uniform(-3, 0.3)
        harm.append(Term(at=at, values=rng.normal(size=shape(at)) * scale))
        at = scope()
        size.append(Term(at=at, values=rng.integers(0, 900, shape(at)).astype(float)))
        at = scope()
        seconds.append(Term(at=at, values=rng.random(shape(at))))
    bills = {"size": table("byte", size, 7.0), "latency": table("s", seconds)}
    return Instance(counts=counts, harm=table("nat", harm, 0.5), bills=bills)


def limits_at(instance: Instance, share: float) -> dict[str, float]:
    """Limits that about this share of the points meets, each alone."""
    return {
        name: float(np.quantile([bill.of(p) for p in instance.points], share))
        for name, bill in instance.bills.items()
    }
