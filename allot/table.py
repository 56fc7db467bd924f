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
    """constant + sum of terms + the largest of the peaks; of a plan it is `table.of(point)`.

    unit: "byte", "bitop", "s", "nat".  origin: where the numbers come from.  vectors: pair terms
    that are not written out as terms; `with_pairs` does that for the largest, and only those
    written out count in `of`.  peaks: sums of terms of which only the largest counts, as in what
    is needed at one of several times.
    """

    unit: str
    origin: str
    constant: float = 0.0
    terms: tuple[Term, ...] = field(default=())
    vectors: Vectors | None = None
    peaks: tuple[tuple[Term, ...], ...] = ()

    def of(self, point: Sequence[int]) -> float:
        largest = max((_sum(terms, point) for terms in self.peaks), default=0.0)
        return self.constant + _sum(self.terms, point) + largest

    def flat(self) -> tuple[Table, ...]:
        """Tables without peaks; the value of this one is the largest of theirs."""
        peaks = self.peaks or ((),)
        return tuple(replace(self, terms=(*self.terms, *terms), peaks=()) for terms in peaks)

    def over(self, points: NDArray[np.intp]) -> Array:
        """The values of many points [m, choices] at once: [m]."""
        at = points.T
        peaks = [_over(terms, at) for terms in self.peaks]
        largest = np.max(peaks, axis=0) if peaks else 0.0
        found: Array = self.constant + _over(self.terms, at) + largest
        return found

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
        data: dict[str, Any] = {
            "unit": self.unit,
            "origin": self.origin,
            "constant": self.constant,
            "terms": _dump(self.terms),
        }
        return data | ({"peaks": [_dump(terms) for terms in self.peaks]} if self.peaks else {})


def _sum(terms: Sequence[Term], point: Sequence[int]) -> float:
    return float(sum(t.values[tuple(point[i] for i in t.at)] for t in terms))


def _over(terms: Sequence[Term], at: NDArray[np.intp]) -> Array:
    """Sum of the terms at many points, given per choice: [choices, m] -> [m]."""
    total = np.zeros(at.shape[1])
    for t in terms:
        total += t.values[tuple(at[i] for i in t.at)]
    return total


def _dump(terms: Sequence[Term]) -> list[dict[str, Any]]:
    return [{"at": list(t.at), "values": t.values.tolist()} for t in terms]


def _load(data: Sequence[dict[str, Any]]) -> tuple[Term, ...]:
    return tuple(
        Term(at=tuple(t["at"]), values=np.asarray(t["values"], dtype=np.float64)) for t in data
    )


def load(data: dict[str, Any]) -> Table:
    """The table that `dump` wrote."""
    return Table(
        unit=data["unit"],
        origin=data["origin"],
        constant=data["constant"],
        terms=_load(data["terms"]),
        peaks=tuple(_load(terms) for terms in data.get("peaks", ())),
    )
