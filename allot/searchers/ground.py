"""Ground: a sampler's space as a search sees it: predicted harm, its bill, what may be taken."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from allot.displaced import Displaced
from allot.errors import BudgetError
from allot.samplers.step_bill import StepBill
from allot.searchers.stretch_arcs import StretchArcs
from allot.solve.milp import solve
from allot.solve.path import path
from allot.space import Point
from allot.table import Table, Term

# buckets of cost, and turns of either exact solver
_BUCKETS, _ROUNDS = 300, 3
LEAST = 1e-9


@dataclass(frozen=True, kw_only=True, eq=False)
class Ground:
    """harm: of plans, predicted.  bill: BitOPs.  limit: on it.  allowed: per choice, options that
    may be taken.  correct: log of what plans lose over what is predicted, as far as it is known.
    others: further bills and the limits on them."""

    harm: Displaced
    bill: StepBill
    limit: float
    allowed: Sequence[Sequence[int]]
    correct: Callable[[Point], float] = field(default=lambda point: 0.0)
    others: Sequence[tuple[StepBill, float]] = ()

    def score(self, point: Point) -> float:
        """Log of the harm that is expected; infinite for what does not fit or is unmeasured."""
        if any(b.of(point) > v for b, v in ((self.bill, self.limit), *self.others)):
            return math.inf
        at, unknown = self.harm.parts(point)
        if unknown:
            return math.inf
        predicted = float(self.harm.frechet[np.ix_(at, at)].sum())
        return math.log(max(predicted, LEAST)) + self.correct(point)

    def begin(self, weights: Sequence[int]) -> Point | None:
        """A plan from the exact solvers of either part in turn: of steps, then of weights.

        weights: options of the weights to begin with.  Cross terms are taken at the plan before,
        so each part is a sum of its own.  None where nothing fits.
        """
        z = list(self.harm.mild)
        for i, o in zip(self.bill.weights, weights, strict=True):
            z[i] = o
        found: Point | None = None
        for _ in range(_ROUNDS):
            try:
                self._steps(z)
                self._weights(z)
            except BudgetError:
                break
            new = tuple(z)
            if new == found:
                break
            if found is None or self.score(new) < self.score(found):
                found = new
        return found

    def _steps(self, z: list[int]) -> None:
        """The steps of least harm at these weights, in place; raises BudgetError."""
        rest = [0, *self._at(z, self.bill.weights)]
        # other steps are not known yet: their own squares, and how they meet weights and base
        cross = 2 * self.harm.frechet[rest].sum(0) + np.diag(self.harm.frechet)
        w = np.array([z[i] for i in self.bill.weights], dtype=np.intp)
        ways, room = self.bill.ways(w), self.limit - self.bill.fixed(w)
        graph = StretchArcs(harm=self.harm, allowed=self.allowed)
        arcs, taken = graph.arcs(cross, ways)
        found = path(arcs, nodes=graph.nodes, limits=[room], buckets=_BUCKETS)
        for k in found.arcs:
            for choice, option in taken[k]:
                z[choice] = option

    def _weights(self, z: list[int]) -> None:
        """The weights of least harm at these steps, in place; raises BudgetError."""
        at = self.bill.weights
        counts = tuple(len(self.allowed[i]) for i in at)
        if math.prod(counts) == 1:
            return
        harm = self._harms(z)
        limited = {str(k): x for k, x in enumerate(((self.bill, self.limit), *self.others))}
        bills = {k: self._of_weights(b, z) for k, (b, _) in limited.items()}
        # where a target computes all bits alike, weights change nothing of what steps cost
        bills = {k: b for k, b in bills.items() if _matters(b)}
        if bills:
            point = solve(
                counts, harm=harm, floor=False, time_limit=5.0, nodes=20, gap=1e-2, bills=bills,
                limits={k: limited[k][1] for k in bills},
            ).point  # fmt: skip
        else:
            point = tuple(int(np.argmin(t.values)) for t in harm.terms)
        for k, i in enumerate(at):
            z[i] = self.allowed[i][point[k]]

    def _harms(self, z: Sequence[int]) -> Table:
        """Harm of every allowed option of every weight, all else as it is."""
        rest, _ = self.harm.parts(z)
        squares, terms = self.harm.frechet, []
        for k, i in enumerate(self.bill.weights):
            others = [p for p in rest if p != self.harm.alone.get((i, z[i]))]
            parts = [self.harm.alone.get((i, o)) for o in self.allowed[i]]
            harm = [
                0.0 if p is None else squares[p, p] + 2 * squares[p, others].sum() for p in parts
            ]
            terms.append(Term(at=(k,), values=np.array(harm)))
        return Table(unit="nat", origin="displacement", terms=tuple(terms))

    def _of_weights(self, bill: StepBill, z: Sequence[int]) -> Table:
        """A bill of the weights' allowed options, the steps as they are."""
        steps = [z[i] for i in bill.steps]
        per = bill.per_weight(steps)
        free = float(bill.alone[np.arange(len(steps)), steps].sum())
        terms = tuple(
            Term(at=(k,), values=per[k, list(self.allowed[i])]) for k, i in enumerate(bill.weights)
        )
        return Table(unit="", origin="", constant=bill.constant + free, terms=terms)

    def _at(self, z: Sequence[int], choices: Sequence[int]) -> list[int]:
        return [self.harm.alone[i, z[i]] for i in choices if (i, z[i]) in self.harm.alone]


def _matters(bill: Table) -> bool:
    """Whether a bill depends on any choice, beyond how its sums are rounded."""
    return any(float(np.ptp(t.values)) > 1e-9 * float(np.abs(t.values).max()) for t in bill.terms)
