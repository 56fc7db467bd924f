"""Surrogate: what every plan will lose, believed from cheap signals and from plans measured.

log f(x) = c + (1 + w) log q(x) + sum_g a[g, x_g] + sum_(g,h) b[g, h, x_g, x_h] + r(x): a
signal's word q, corrected by an additive residual, by one of pairs, and by what neighbours share
(their covariance falls with the number of choices in which they differ), all Gaussian a priori.
Which signal to believe and how far is decided by evidence: every hypothesis (a signal, sizes of
the residuals) weighs what it makes likely of the measured plans (MacKay 1992).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_solve, solve_triangular

from allot.table import Array, Table, Term

Index = NDArray[np.intp]

# prior spreads in log divergence: of the level, of the trust in a signal's log, of the residuals
LEVEL, TRUST = 2.0, 0.25
_OWN = (0.1, 0.3, 0.9)
_PAIR = (0.3, 1.0)
_NEAR = (0.02, 0.08, 0.3)
_NOISE = 0.01
# choices in which two plans differ when their own residuals have 1/e in common
_REACH = 3.0
# a hypothesis of less weight than this says nothing
_LEAST_WEIGHT = 0.02
# a divergence below this [nats] is as good as none
LEAST = 1e-9


def word(table: Table, points: Index) -> Array:
    """What a signal says of points [m, choices]: its sum, no less than the largest single harm.

    Sums of products measured far from where they are used can turn negative; no plan loses less
    than its worst option does alone.
    """
    total, floor = table.over(points), np.zeros(len(points))
    for t in table.terms:
        if len(t.at) == 1:
            floor = np.maximum(floor, t.values[points[:, t.at[0]]])
    if table.vectors is not None:
        d = table.vectors.values
        taken = indicators(points, table.vectors.counts)
        # half the square of the sum, less what every option does alone
        total += 0.5 * (np.mean((taken @ d.T) ** 2, axis=1) - taken @ np.mean(d**2, axis=0))
    return np.maximum(np.maximum(total, floor), LEAST)


def indicators(points: Index, counts: Sequence[int]) -> Array:
    """[m, options]: 1 where the point [m, choices] takes the option."""
    parts = [points[:, i, None] == np.arange(n) for i, n in enumerate(counts)]
    return np.concatenate(parts, axis=1).astype(np.float64)


@dataclass(frozen=True, kw_only=True, eq=False)
class Known:
    """Points as the model sees them.

    own: [m, options], pairs: [m, pairs of options along the edges], both scaled so that every
    row has length 1; words: log of every signal's word, [signals, m].
    """

    own: Array
    pairs: Array
    words: Array

    def take(self, rows: Index) -> Known:
        return Known(own=self.own[rows], pairs=self.pairs[rows], words=self.words[:, rows])


@dataclass(frozen=True, kw_only=True, eq=False)
class Model:
    """counts: options per choice.  edges: pairs of choices whose meeting has a residual of its
    own.  experts: signals, as tables in nats."""

    counts: tuple[int, ...]
    edges: tuple[tuple[int, int], ...]
    experts: tuple[Table, ...]

    def known(self, points: Index) -> Known:
        """Features of points [m, choices]."""
        own = indicators(points, self.counts) / np.sqrt(len(self.counts))
        parts = [np.zeros((len(points), 0))]
        for i, j in self.edges:
            code = points[:, i] * self.counts[j] + points[:, j]
            parts.append(code[:, None] == np.arange(self.counts[i] * self.counts[j]))
        pairs = np.concatenate(parts, axis=1) / np.sqrt(max(1, len(self.edges)))
        words = np.array([np.log(word(e, points)) for e in self.experts])
        return Known(own=own, pairs=pairs, words=words)

    def residual(self, own: Array) -> tuple[Term, ...]:
        """Weights of the scaled features `own` as terms of a table."""
        starts = np.cumsum([0, *self.counts])
        own = own / np.sqrt(len(self.counts))
        return tuple(
            Term(at=(i,), values=own[starts[i] : starts[i + 1]]) for i in range(len(self.counts))
        )


def edges(counts: Sequence[int], experts: Sequence[Table]) -> tuple[tuple[int, int], ...]:
    """Pairs of choices that the signals say meet most, at most three per choice; in a small space
    all of them.

    By the root mean square of their products, the largest signal's word; without any, each
    choice and the next.
    """
    n = len(counts)
    every = list(combinations(range(n), 2))
    if len(every) <= 5 * n:
        return tuple(every)
    size: dict[tuple[int, int], float] = {(i, i + 1): 0.0 for i in range(n - 1)}
    for e in experts:
        for t in e.with_pairs(3 * n).terms:
            if len(t.at) == 2:
                pair = (t.at[0], t.at[1])
                size[pair] = max(size.get(pair, 0.0), float(np.sqrt(np.mean(t.values**2))))
    return tuple(sorted(sorted(size, key=lambda p: -size[p])[: 3 * n]))


@dataclass(frozen=True, kw_only=True)
class Hypothesis:
    """expert: the signal believed.  own, pair, near: spreads of the residuals, in log divergence:
    of options, of pairs, and of neighbourhoods."""

    expert: int
    own: float
    pair: float
    near: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Products:
    """Inner products of the features of two sets of points, shared by all hypotheses."""

    own: Array
    pairs: Array
    near: Array

    def covariance(self, h: Hypothesis, a: Array, b: Array) -> Array:
        """Prior covariance; a, b: logs of the expert's word, less the same shift."""
        trust = TRUST**2 * np.outer(a, b)
        residual = h.own**2 * self.own + h.pair**2 * self.pairs + h.near**2 * self.near
        return LEVEL**2 + trust + residual


def products(a: Known, b: Known) -> Products:
    own = a.own @ b.own.T
    return Products(own=own, pairs=a.pairs @ b.pairs.T, near=_near(own, a))


def _near(own: Array, known: Known) -> Array:
    """exp(-d / reach) for points that differ in d choices; own: share of equal choices."""
    # an indicator is 1 / sqrt(choices) where it is not 0
    choices = 1 / float(known.own[0].max()) ** 2 if len(known.own) else 1.0
    found: Array = np.exp((own - 1) * choices / _REACH)
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Posterior:
    """One hypothesis after what was seen.

    shift: mean log word of the seen.  factor: Cholesky factor of their covariance.  solved: the
    covariance's inverse times what they are off the expert.
    """

    hypothesis: Hypothesis
    shift: float
    factor: Array
    solved: Array
    evidence: float


@dataclass(frozen=True, kw_only=True, eq=False)
class Belief:
    """All hypotheses of some weight, after the points `seen`."""

    seen: Known
    posteriors: tuple[Posterior, ...]
    weights: Array

    def means(self, known: Known) -> Array:
        """Mean log divergence at points; by weights of their features, so it is cheap."""
        seen, total = self.seen, np.zeros(known.words.shape[1])
        own, pairs = np.zeros(seen.own.shape[1]), np.zeros(seen.pairs.shape[1])
        near = np.zeros(len(seen.own))
        for weight, p in zip(self.weights, self.posteriors, strict=True):
            h = p.hypothesis
            slope = TRUST**2 * float((seen.words[h.expert] - p.shift) @ p.solved)
            total += weight * (1 + slope) * known.words[h.expert]
            total += weight * (LEVEL**2 * p.solved.sum() - slope * p.shift)
            own += weight * h.own**2 * (p.solved @ seen.own)
            pairs += weight * h.pair**2 * (p.solved @ seen.pairs)
            near += weight * h.near**2 * p.solved
        shared = _near(known.own @ seen.own.T, seen)
        return total + known.own @ own + known.pairs @ pairs + shared @ near

    def moments(self, known: Known) -> tuple[Array, Array]:
        """Mean and standard deviation of log divergence at points."""
        shared = products(known, self.seen)
        means, squares = [], []
        for p in self.posteriors:
            cross = self._cross(p, known, shared)
            mean = known.words[p.hypothesis.expert] + cross @ p.solved
            means.append(mean)
            squares.append(self._variance(p, known, cross) + mean**2)
        mean = self.weights @ np.array(means)
        variance = self.weights @ np.array(squares) - mean**2
        return mean, np.sqrt(np.maximum(variance, 1e-10))

    def _cross(self, p: Posterior, known: Known, shared: Products) -> Array:
        e = p.hypothesis.expert
        return shared.covariance(
            p.hypothesis, known.words[e] - p.shift, self.seen.words[e] - p.shift
        )

    def _variance(self, p: Posterior, known: Known, cross: Array) -> Array:
        h = p.hypothesis
        prior = LEVEL**2 + (TRUST * (known.words[h.expert] - p.shift)) ** 2
        half = solve_triangular(p.factor, cross.T, lower=True)
        return np.maximum(prior + h.own**2 + h.pair**2 + h.near**2 - (half**2).sum(0), 1e-10)


def believe(seen: Known, logs: Array, errors: Array) -> Belief:
    """What to hold of all plans after seeing the logs [m] of some, with standard errors [m]."""
    shared = products(seen, seen)
    found = []
    for expert, own, pair, near in product(range(len(seen.words)), _OWN, _PAIR, _NEAR):
        h = Hypothesis(expert=expert, own=own, pair=own * pair, near=near)
        found.append(_posterior(h, seen, shared, logs, errors))
    evidence = np.array([p.evidence for p in found])
    weights = np.exp(evidence - evidence.max())
    keep = weights >= _LEAST_WEIGHT * weights.sum()
    kept = tuple(p for p, k in zip(found, keep, strict=True) if k)
    return Belief(seen=seen, posteriors=kept, weights=weights[keep] / weights[keep].sum())


def _posterior(
    h: Hypothesis, seen: Known, shared: Products, logs: Array, errors: Array
) -> Posterior:
    words = seen.words[h.expert]
    shift = float(np.mean(words))
    prior = shared.covariance(h, words - shift, words - shift)
    factor = np.linalg.cholesky(prior + np.diag(_NOISE**2 + errors**2)).astype(np.float64)
    solved = cho_solve((factor, True), logs - words)
    evidence = -0.5 * (logs - words) @ solved - np.log(np.diag(factor)).sum()
    return Posterior(
        hypothesis=h, shift=shift, factor=factor, solved=solved, evidence=float(evidence)
    )
