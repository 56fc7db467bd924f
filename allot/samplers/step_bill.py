"""Step bill: a sampler's bill with quantized tensors, quick to sum for very many plans."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from allot.errors import InputError
from allot.space import Point
from allot.table import Array, Table, Term

Index = NDArray[np.intp]


@dataclass(frozen=True, kw_only=True, eq=False)
class StepBill:
    """constant + sum over weights w of values[w][:, its option] for every step and its option.

    steps, weights: positions of the choices.  values: per weight [options, steps, ways], where
    ways past those of a step are infinite; what depends on no weight is in `alone` [steps, ways],
    what depends on no step in `once`, per weight [options].
    """

    steps: tuple[int, ...]
    weights: tuple[int, ...]
    values: Array
    alone: Array
    once: Array
    constant: float

    def of(self, point: Sequence[int]) -> float:
        """The bill of a plan; options at other choices are those it was made for."""
        z = np.asarray(point)
        ways = self.ways(z[list(self.weights)])
        rows = np.arange(len(self.steps))
        return float(ways[rows, z[list(self.steps)]].sum()) + self.fixed(z[list(self.weights)])

    def ways(self, weights: Index) -> Array:
        """What every way of every step costs under options of the weights: [steps, ways]."""
        rows = np.arange(len(self.weights))
        found: Array = self.alone + self.values[rows, weights].sum(0)
        return found

    def fixed(self, weights: Index) -> float:
        """What is paid once under options of the weights."""
        return self.constant + float(self.once[np.arange(len(self.weights)), weights].sum())

    def per_weight(self, steps: Sequence[int]) -> Array:
        """What every option of every weight costs under ways of the steps: [weights, options]."""
        rows = np.arange(len(self.steps))
        found: Array = self.values[:, :, rows, list(steps)].sum(2) + self.once
        return found


def step_bill(
    bill: Table, *, counts: Sequence[int], steps: Sequence[int], weights: Sequence[int],
    point: Point,
) -> StepBill:  # fmt: skip
    """The bill with all choices but steps and weights as in a point.

    Raises InputError for a bill with peaks, or with a term over two steps or two weights.
    """
    ways = max(counts[i] for i in steps)
    options = max((counts[i] for i in weights), default=1)
    values = np.zeros((len(weights), options, len(steps), ways))
    alone = np.zeros((len(steps), ways))
    once = np.zeros((len(weights), options))
    constant = bill.constant
    where = {i: k for k, i in enumerate(steps)}, {i: k for k, i in enumerate(weights)}
    if bill.peaks:
        raise InputError(f"a bill in {bill.unit} with peaks is no sum over steps")
    for term in bill.terms:
        at, rest = _cut(term, where, point)
        s = [where[0][i] for i in at if i in where[0]]
        w = [where[1][i] for i in at if i in where[1]]
        if len(s) > 1 or len(w) > 1:
            raise InputError(f"a term of the bill is over choices {term.at}; one step, one weight")
        if s and w:
            first = rest if at[0] in where[1] else rest.T
            values[w[0], : first.shape[0], s[0], : first.shape[1]] += first
        elif s:
            alone[s[0], : len(rest)] += rest
        elif w:
            once[w[0], : len(rest)] += rest
        else:
            constant += float(rest)
    for k, i in enumerate(steps):
        alone[k, counts[i] :] = np.inf
    return StepBill(
        steps=tuple(steps), weights=tuple(weights), values=values, alone=alone, once=once,
        constant=constant,
    )  # fmt: skip


def _cut(
    term: Term, where: tuple[dict[int, int], dict[int, int]], point: Point
) -> tuple[list[int], Array]:
    """The choices of a term that are free, and its values at the point in all others."""
    free = [i for i in term.at if i in where[0] or i in where[1]]
    index = tuple(slice(None) if i in free else point[i] for i in term.at)
    return free, np.asarray(term.values[index], dtype=np.float64)
