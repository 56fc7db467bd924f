"""Search: solve exactly, measure what was chosen, correct the belief, solve again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtr

from allot.errors import BudgetError
from allot.lines import SECONDS
from allot.measure import Loss
from allot.pool import EVERYTHING, Candidates, Everything, Optima, Pool
from allot.seen import Seen
from allot.solve.milp import Solution, solve
from allot.space import Point, Space
from allot.surrogate import LEAST, Belief, Model, believe, edges
from allot.table import Array, Table
from allot.trials import Limits, Trials

# candidates whose improvement is computed in full
_CANDIDATES = 300
# relative gap at which a solve of the first plans stops
_GAP = 1e-2
# standard errors by which a plan has to be worse to be dropped
_SURE = 2.0


@dataclass(frozen=True, kw_only=True)
class Effort:
    """levels: budgets at which a plan is wanted.  rounds: of correction at most.  batch: plans
    measured in each.  draws: functions drawn from the belief for each.  nodes: of branch and
    bound at most in one solve; seconds would not give the same plans twice.  tolerance: the
    search ends when the next plan is expected to lower the mean log divergence over levels by
    less.  share: of the search data, on which plans are compared with the best before they are
    measured on all; 1 for none of this.
    """

    levels: int = 16
    rounds: int = 8
    batch: int = 4
    draws: int = 1
    nodes: int = 20
    tolerance: float = 1e-4
    share: float = 1.0


EFFORT = Effort()


def search(trials: Trials, *, harm: Sequence[Table], seed: int, effort: Effort = EFFORT) -> None:
    """The closed loop until nothing is expected of it any more, or `Spent`."""
    Search(trials, harm=harm, seed=seed, effort=effort).run()


class Search:
    """The loop over one set of trials.

    The plans of the first signal for every level are measured; then, in turn, all measured plans
    correct the belief (`allot.surrogate`) and those plans are measured from which the most is
    expected: the fall of log divergence, summed over the levels that a plan fits (expected
    improvement, Mockus 1975, of the whole front).
    """

    def __init__(
        self, trials: Trials, *, harm: Sequence[Table], seed: int, effort: Effort = EFFORT
    ) -> None:
        counts, plain = trials.space.counts, [h for h in harm if h.vectors is not None]
        self.trials, self.effort = trials, effort
        # with options that ruin the output, products of changes mislead: a signal's harm without
        # its pairs is an expert too
        experts = (*harm, *(replace(h, vectors=None) for h in plain))
        self.model = Model(counts=counts, edges=edges(counts, harm), experts=experts)
        self.pool = _pool(trials, self.model, effort, seed)
        self.rounds = 0
        self.screened: dict[Point, tuple[float, float]] = {}

    def run(self) -> None:
        """All rounds; raises Spent when the trials do."""
        self.first(self.trials.levels)
        while self.rounds < self.effort.rounds and self.step(self.trials.levels):
            self.rounds += 1
            self.trials.progress(self.rounds / self.effort.rounds)

    def first(self, levels: Sequence[Limits]) -> None:
        """Measures what the first signal says is best at every level."""
        harm = self.model.experts[0].with_pairs(len(self.model.counts))
        found = {}
        for limits in levels:
            try:
                s = self.solve(harm, limits)
            except BudgetError:
                continue  # every bill can be that small, but not all of them at once
            found[s.point] = (s.harm, s.gap)
        self.trials.measure(list(found), foretold=list(found.values()))

    def solve(
        self, harm: Table, limits: Limits, fixed: Mapping[int, int] | None = None
    ) -> Solution:
        """The plan of least harm within limits; raises BudgetError without one."""
        return solve(
            self.model.counts,
            harm=harm,
            bills=self.trials.bills,
            limits=limits,
            fixed=fixed,
            time_limit=SECONDS,
            nodes=self.effort.nodes,
            gap=_GAP,
        )

    def near(self, limits: Limits) -> None:
        """Measures what is likely best within limits: one batch, and once the best of every axis.

        A single axis is a plan of the joint space too: where the tables misjudge how axes meet,
        the joint search is never worse than the better of them.
        """
        harm = self.model.experts[0].with_pairs(len(self.model.counts))
        for fixed in restrictions(self.trials.space):
            try:
                self.trials.measure([self.solve(harm, limits, fixed=fixed).point])
            except BudgetError:
                continue  # one axis alone need not reach every budget
        self.step([limits])

    def step(self, levels: Sequence[Limits]) -> bool:
        """Measures the batch from which most is expected; False if that is too little."""
        picked = self.pick(levels)
        kept = self.screen(list(picked), levels) if self.effort.share < 1 else list(picked)
        self.trials.measure(kept, foretold=[(picked[p], math.nan) for p in kept])
        return bool(picked)

    def screen(self, points: Sequence[Point], levels: Sequence[Limits]) -> list[Point]:
        """The points that a part of the data does not show to be worse than the best plans.

        Each is compared with the best plan of every level that it fits, on the same samples; who
        is surely worse at all of them is not measured further, and what was seen of it counts as
        an estimate with its error.
        """
        kept = []
        losses = self.trials.screen(points, share=self.effort.share) if points else []
        for p, loss in zip(points, losses, strict=True):
            rivals = [self.trials.best(v) for v in levels if self.trials.fits(p, v)]
            told = [
                against(loss, self.trials.losses[r.point], r.divergence)
                for r in rivals
                if r is not None
            ]
            if len(told) < len(rivals) or any(gap <= _SURE * se for gap, se, _ in told):
                kept.append(p)
                continue
            _, error, log = min(told, key=lambda t: t[1])
            self.screened[p] = (log, error)
        return kept

    def pick(self, levels: Sequence[Limits]) -> dict[Point, float]:
        """Points to measure next, each with the divergence expected of it [nats].

        One after the other, each as if those before it had been measured to be what is believed
        (Ginsbourger et al. 2010); none where no more than the tolerance is expected.
        """
        seen = Seen.of(self.trials, levels, self.screened)
        picked: dict[Point, float] = {}
        pool: Candidates | None = None
        for _ in range(self.effort.batch):
            belief = believe(self.model.known(seen.points), seen.logs, seen.errors)
            pool = pool or self.pool.candidates(belief, seen, levels)
            best = self._best(belief, seen, pool)
            if best is None:
                break
            row, log = best
            point = tuple(int(o) for o in pool.points[row])
            picked[point] = math.exp(log)
            seen = seen.with_point(point, log, pool.fits[row])
        return picked

    def _best(self, belief: Belief, seen: Seen, pool: Candidates) -> tuple[int, float] | None:
        """Row of the candidate of largest expected improvement and its expected log; None if too
        little is expected."""
        goal = seen.best
        gain = np.where(pool.fits, goal - belief.means(pool.known)[:, None], -np.inf).max(1)
        rows = np.argsort(-gain, kind="stable")[: _CANDIDATES + len(seen.logs)]
        rows = rows[np.isfinite(gain[rows]) & ~seen.among(pool.points[rows])][:_CANDIDATES]
        if not len(rows):
            return None
        mean, spread = belief.moments(pool.known.take(rows))
        improvement = _improvement(goal, mean, spread) * pool.fits[rows]
        total = improvement.mean(1)
        top = int(total.argmax())
        if total[top] < self.effort.tolerance:
            return None
        return int(rows[top]), float(mean[top])


def against(loss: Loss, rival: Loss, divergence: float) -> tuple[float, float, float]:
    """Log of a plan's divergence over its rival's on the same samples, the standard error of
    that, and the log divergence [nats] that follows for all samples; divergence: the rival's.
    """
    a = np.array(loss.divergences)
    b = np.array(rival.divergences[: len(a)])
    ratio = max(a.mean(), LEAST) / max(b.mean(), LEAST)
    error = float(np.std(a - ratio * b) / math.sqrt(len(a)) / max(a.mean(), LEAST))
    gap = math.log(ratio)
    return gap, max(error, 1e-6), math.log(max(divergence, LEAST)) + gap


def _improvement(goal: Array, mean: Array, spread: Array) -> Array:
    """Expected fall below every goal: [candidates, levels]."""
    z = (goal - mean[:, None]) / spread[:, None]
    density = np.exp(-0.5 * z**2) / math.sqrt(2 * math.pi)
    found: Array = spread[:, None] * (z * ndtr(z) + density)
    return found


def _pool(trials: Trials, model: Model, effort: Effort, seed: int) -> Pool:
    if math.prod(model.counts) <= EVERYTHING:
        return Everything(trials, model)
    return Optima(trials, model, draws=effort.draws, nodes=effort.nodes, seed=seed)


def restrictions(space: Space) -> list[dict[int, int]]:
    """For every axis of several: the choices of all others at their mildest option.

    Mildest is the original for structure (level 0) and the most precise format otherwise.
    """
    axes = [type(c.options[0]).__module__ for c in space.choices]
    mild = [min(c.options[0].level, len(c.options) - 1, 1) for c in space.choices]
    names = sorted(set(axes)) if len(set(axes)) > 1 else []
    return [{i: mild[i] for i, a in enumerate(axes) if a != axis} for axis in names]
