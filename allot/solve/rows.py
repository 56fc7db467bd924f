"""Rows: what must hold of a point, as tables and their upper limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from allot.table import Array, Table, Term


@dataclass(frozen=True, kw_only=True)
class Row:
    """A linear side condition: the sum of the coefficients of the options taken is <= most.

    terms: (position of the choice, option) -> coefficient of any sign, 0 where nothing is said.
    A nesting, a flow over steps, a cap on how many kernels there are; an equality is two rows.
    """

    terms: Mapping[tuple[int, int], float]
    most: float

    def table(self, counts: Sequence[int]) -> Table:
        """The left side as a table over a space of these counts."""
        parts: dict[int, Array] = {}
        for (at, option), value in self.terms.items():
            parts.setdefault(at, np.zeros(counts[at]))[option] += value
        terms = tuple(Term(at=(at,), values=parts[at]) for at in sorted(parts))
        return Table(unit="", origin="side condition", terms=terms)


@dataclass(frozen=True, kw_only=True, eq=False)
class Limit:
    """An upper limit of a bill, or ("" as name) of a side condition: on each of its tables."""

    name: str
    tables: tuple[Table, ...]
    at: float

    def of(self, point: Sequence[int]) -> float:
        return max(t.of(point) for t in self.tables)

    @property
    def whole(self) -> bool:
        """Whether it counts whole things."""
        return all(_whole(t) for t in self.tables)


def limit(name: str, bill: Table, at: float) -> Limit:
    """The limit of a bill, rounded down where the bill counts whole things."""
    tables = _leading(bill)
    whole = all(_whole(t) for t in tables)
    return Limit(name=name, tables=tables, at=float(np.floor(at)) if whole else at)


def _whole(bill: Table) -> bool:
    numbers = [np.asarray(bill.constant), *(t.values for t in bill.terms)]
    return all(bool((np.floor(v) == v).all()) for v in numbers)


def _leading(bill: Table) -> tuple[Table, ...]:
    """The tables of which a bill is the largest, without those that another is never below."""
    tables = bill.flat()
    if len(tables) == 1:
        return tables
    ends = [_ends(terms) for terms in bill.peaks]
    highest = max(range(len(ends)), key=lambda k: ends[k][0])
    return tuple(t for k, t in enumerate(tables) if k == highest or ends[k][1] > ends[highest][0])


def _ends(terms: Sequence[Term]) -> tuple[float, float]:
    """Bounds on a sum of terms."""
    low = sum(float(t.values.min()) for t in terms)
    return low, sum(float(t.values.max()) for t in terms)
