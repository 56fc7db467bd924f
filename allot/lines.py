"""Lines: functions that the belief holds possible, and their exact least points within limits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.linalg import cho_solve

from allot.errors import BudgetError
from allot.solve.milp import solve
from allot.space import Point
from allot.surrogate import LEVEL, TRUST, Belief, Known, Model, Posterior, word
from allot.table import Array, Table, Term

# of one solve; far more than its nodes take, since what ends by the clock ends elsewhere next time
SECONDS = 120.0
# relative, at which a solve ends: candidates are ranked afterwards, with their neighbours
_GAP = 2e-2


@dataclass(frozen=True, kw_only=True, eq=False)
class Line:
    """One function that the belief holds possible: trust * log q(x) + the sum of terms.

    Its pair terms are the signal's; the belief's own residual of pairs is left to the ranking of
    candidates: with it every solve would take minutes.
    """

    expert: int
    trust: float
    terms: tuple[Term, ...]

    def table(self, expert: Table, at: float) -> Table:
        """Its tangent in q where q = at: an upper bound on it, up to a constant.

        log q <= log q0 + (q - q0) / q0 (majorize, then minimize: Hunter & Lange 2004).
        """
        scale = max(self.trust, 1e-3) / at
        scaled = tuple(replace(t, values=scale * t.values) for t in expert.terms)
        return Table(unit="nat", origin="tangent", terms=_summed((*scaled, *self.terms)))


def _summed(terms: Sequence[Term]) -> tuple[Term, ...]:
    """One term for each set of choices."""
    found: dict[tuple[int, ...], Array] = {}
    for t in terms:
        found[t.at] = found[t.at] + t.values if t.at in found else t.values
    return tuple(Term(at=at, values=v) for at, v in found.items())


def likeliest(belief: Belief, model: Model) -> Line:
    """The posterior mean of the hypothesis of most weight."""
    p = belief.posteriors[int(belief.weights.argmax())]
    return _line(p, belief.seen, model, p.solved)


def drawn(
    belief: Belief, model: Model, logs: Array, errors: Array, generator: np.random.Generator
) -> Line:
    """A function drawn from the belief (Thompson 1933; by Matheron's rule, Wilson et al. 2020)."""
    p = belief.posteriors[int(generator.choice(len(belief.weights), p=belief.weights))]
    h, seen = p.hypothesis, belief.seen
    words = seen.words[h.expert]
    level, trust = LEVEL * generator.normal(), TRUST * generator.normal()
    own = h.own * generator.normal(size=seen.own.shape[1])
    pairs = h.pair * generator.normal(size=seen.pairs.shape[1])
    prior = level + trust * (words - p.shift) + seen.own @ own + seen.pairs @ pairs
    noise = errors * generator.normal(size=len(logs))
    solved = cho_solve((p.factor, True), logs - words - prior - noise)
    return _line(p, seen, model, solved, trust=trust, own=own)


def _line(
    p: Posterior,
    seen: Known,
    model: Model,
    solved: Array,
    *,
    trust: float = 0.0,
    own: Array | float = 0.0,
) -> Line:
    h = p.hypothesis
    trust += TRUST**2 * float((seen.words[h.expert] - p.shift) @ solved)
    weights = own + h.own**2 * (solved @ seen.own)
    return Line(expert=h.expert, trust=1 + trust, terms=model.residual(weights))


@dataclass(frozen=True, kw_only=True, eq=False)
class Solver:
    """Least values of lines within limits. experts: the model's, with their pairs written out."""

    model: Model
    experts: tuple[Table, ...]
    bills: Mapping[str, Table]
    nodes: int

    def least(
        self, line: Line, limits: Mapping[str, float], *, start: Point, steps: int = 1
    ) -> Point:
        """The point of least value within limits, from the tangent at a start on; each tangent is
        solved exactly.  Raises BudgetError where nothing is within."""
        expert, point = self.experts[line.expert], start
        for _ in range(steps):
            at = float(word(expert, np.array([point]))[0])
            found = solve(
                self.model.counts,
                harm=line.table(expert, at),
                bills=self.bills,
                limits=limits,
                floor=False,
                time_limit=SECONDS,
                nodes=self.nodes,
                gap=_GAP,
            )
            if found.point == point:
                break
            point = found.point
        return point

    def optima(
        self, line: Line, levels: Sequence[Mapping[str, float]], starts: Sequence[Point]
    ) -> list[Point]:
        """The least points of a line at every level that something is within."""
        found = []
        for limits, start in zip(levels, starts, strict=True):
            try:
                found.append(self.least(line, limits, start=start))
            except BudgetError:
                continue  # every bill can be that small, but not all of them at once
        return found
