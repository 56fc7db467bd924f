"""Tables: numbers per option (harm, bytes, seconds) as sums of terms over a few choices each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
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
class Table:
    """constant + sum of terms; the value of a whole plan is `table.of(point)`.

    unit: "byte", "bitop", "s", "nat".  origin: where the numbers come from.
    """

    unit: str
    origin: str
    constant: float = 0.0
    terms: tuple[Term, ...] = field(default=())

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
