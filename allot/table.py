"""Tables: numbers per option (harm, bytes, seconds) as sums of terms over a few choices each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Term:
    """A number for every combination of options of a few choices.

    at: positions of the choices in the space, ascending.  values: [n_a, n_b, ...], one dim each.
    """

    at: tuple[int, ...]
    values: Array


@dataclass(frozen=True, kw_only=True, eq=False)
class Vectors:
    """Per-sample changes, whose products are the pair terms of a harm: never an (nk)^2 matrix.

    values: [samples, options], float64, all options of all choices side by side; the column of
    an original is 0.  counts: options per choice.  The harm of a plan is half the mean square of
    the sum of its columns, so a pair of options meets in the mean of their product.
    """

    values: Array
    counts: tuple[int, ...]

    def of(self, at: int) -> Array:
        """The changes that the options of one choice make: [samples, n]."""
        starts = np.concatenate([[0], np.cumsum(self.counts)])
        return self.values[:, starts[at] : starts[at + 1]]

    def pair(self, i: int, j: int) -> Array:
        """Mean product of the options of two choices: [n_i, n_j]."""
        return self.of(i).T @ self.of(j) / len(self.values)

    def half_squares(self, at: int) -> Array:
        """What the options of one choice do alone: half the mean square, [n]."""
        found: Array = 0.5 * np.mean(self.of(at) ** 2, axis=0)
        return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """constant + sum of terms; the value of a whole plan is `table.of(point)`.

    unit: "byte", "bitop", "s", "nat".  origin: where the numbers come from.  vectors: pair terms
    that are not written out as terms; `with_pairs` does that for the largest, and only those
    written out count in `of`.
    """

    unit: str
    origin: str
    constant: float = 0.0
    terms: tuple[Term, ...] = field(default=())
    vectors: Vectors | None = None

    def of(self, point: Sequence[int]) -> float:
        return self.constant + float(
            sum(t.values[tuple(point[i] for i in t.at)] for t in self.terms)
        )

    def single(self, at: int, n: int) -> Array:
        """Sum of the terms that depend on choice `at` alone: [n]."""
        total = np.zeros(n)
        for t in self.terms:
            if t.at == (at,):
                total = total + t.values
        return total

    def with_pairs(self, most: int) -> Table:
        """The table with the `most` largest pairs of its vectors written out as terms.

        Largest by the root mean square of their products over options.
        """
        if self.vectors is None:
            return self
        n = len(self.vectors.counts)
        pairs = list(combinations(range(n), 2))
        found = {p: self.vectors.pair(*p) for p in pairs}
        found = {p: v for p, v in found.items() if v.any()}
        best = sorted(found, key=lambda p: -float(np.sqrt(np.mean(found[p] ** 2))))[:most]
        terms = tuple(Term(at=p, values=found[p]) for p in sorted(best))
        return replace(self, terms=(*self.terms, *terms), vectors=None)

    def dump(self) -> dict[str, Any]:
        terms = [{"at": list(t.at), "values": t.values.tolist()} for t in self.terms]
        return {
            "unit": self.unit,
            "origin": self.origin,
            "constant": self.constant,
            "terms": terms,
        }


def load(data: dict[str, Any]) -> Table:
    """The table that `dump` wrote."""
    terms = (
        Term(at=tuple(t["at"]), values=np.asarray(t["values"], dtype=np.float64))
        for t in data["terms"]
    )
    return Table(
        unit=data["unit"], origin=data["origin"], constant=data["constant"], terms=tuple(terms)
    )
