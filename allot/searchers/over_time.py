"""Over time: bits, steps and reuse of a sampler searched together, from displacements of its parts.

Predict from the parts, solve exactly within differently restricted sets of options, improve on the
prediction among meetings that were measured, measure, correct the prediction, again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from allot.displaced import Displaced
from allot.errors import InputError
from allot.options.steps import Drop, Reuse
from allot.samplers.step_bill import StepBill, step_bill
from allot.searchers.anneal import anneal
from allot.searchers.corrected import Corrected, corrected
from allot.searchers.ground import LEAST, Ground
from allot.space import Point
from allot.table import Table
from allot.trials import Limits, Trials

# what a restricted plan may do beside all else in the most bits: weights, left out, reused, tensors
SETS: Mapping[str, frozenset[str]] = {
    "steps": frozenset({"drop"}),
    "bits": frozenset({"weight", "tensor"}),
    "cache": frozenset({"reuse"}),
    "steps and bits": frozenset({"drop", "weight", "tensor"}),
    "steps and cache": frozenset({"drop", "reuse"}),
    "cache and bits": frozenset({"reuse", "weight", "tensor"}),
    "all": frozenset({"drop", "reuse", "weight", "tensor"}),
}
SINGLE = ("steps", "bits", "cache")
BITOPS = "bitops"


@dataclass(frozen=True, kw_only=True)
class Pace:
    """rounds: of correction after the first.  moves: of annealing for one plan.  within: choices
    in which later plans may differ from the best that was measured.  restricted: rounds in which
    sets other than all are improved too."""

    rounds: int = 3
    moves: int = 3000
    within: int = 16
    restricted: int = 1


PACE = Pace()


def over_time(trials: Trials, *, harm: Sequence[Table], seed: int, pace: Pace = PACE) -> None:
    """Measures plans for every level until the rounds are over, or `Spent` ends it.

    harm: one of them a `Displaced`; raises InputError without.
    """
    search = Search.of(trials, harm, seed=seed, pace=pace)
    search.first()
    trials.progress(1 / (1 + pace.rounds))
    for r in range(pace.rounds):
        search.again(r)
        trials.progress((2 + r) / (1 + pace.rounds))


@dataclass(frozen=True, kw_only=True, eq=False)
class Search:
    """One search over the levels of some trials."""

    trials: Trials
    harm: Displaced
    bills: Mapping[str, StepBill]
    seed: int
    pace: Pace

    @staticmethod
    def of(trials: Trials, harm: Sequence[Table], *, seed: int, pace: Pace) -> Search:
        """Raises InputError for harm without displacements."""
        found = [h for h in harm if isinstance(h, Displaced)]
        if not found:
            raise InputError("a search over time needs the harm of `allot.harm.displacement`")
        space = trials.space
        weights = [i for i, c in enumerate(space.choices) if c.options[0].kind == "weight"]
        bills = {
            name: step_bill(
                bill, counts=space.counts, steps=found[0].steps, weights=weights,
                point=found[0].mild,
            )
            for name, bill in trials.bills.items()
        }  # fmt: skip
        return Search(trials=trials, harm=found[0], bills=bills, seed=seed, pace=pace)

    @property
    def bill(self) -> StepBill:
        """BitOPs."""
        return self.bills[BITOPS]

    def first(self) -> None:
        """Measures what is predicted to be best for every level in every set."""
        for limits in self.trials.levels:
            points = [self.predicted(name, limits) for name in SETS]
            self._measure([p for p in points if p is not None])

    def again(self, r: int) -> None:
        """Measures what is best after correction, near the best that was measured."""
        names = list(SETS) if r < self.pace.restricted else ["all"]
        for limits in self.trials.levels:
            correct = self.correction()
            points = [self.improved(name, limits, correct, r) for name in names]
            new = self.predicted("all", limits, correct, seed=r + 1)
            self._measure([p for p in (*points, new) if p is not None])

    def predicted(
        self, name: str, limits: Limits, correct: Corrected | None = None, seed: int = 0
    ) -> Point | None:
        """The best plan of a set within limits, as it is predicted; None where none fits.

        From weights all in the most and all in the fewest bits, whichever leads to the better.
        """
        ground = self.ground(name, limits, correct)
        begun = [
            p
            for pick in (min, max)
            for p in [ground.begin([pick(ground.allowed[i]) for i in self.bill.weights])]
            if p is not None
        ]
        best = min(begun, key=ground.score, default=None)
        if best is None:
            return None
        point, score = anneal(
            best, ground.score, allowed=ground.allowed, order=self.harm.steps,
            seed=self.seed + seed, moves=self.pace.moves,
        )  # fmt: skip
        return point if math.isfinite(score) else None

    def improved(self, name: str, limits: Limits, correct: Corrected, r: int) -> Point | None:
        """A better plan near the best measured one of a set; None where there is none."""
        best = self.best(name, limits)
        if best is None:
            return None
        ground = self.ground(name, limits, correct)
        point, score = anneal(
            best, ground.score, allowed=ground.allowed, order=self.harm.steps,
            seed=self.seed + 101 * (r + 1), moves=self.pace.moves, within=self.pace.within,
            known=self.trials.plans,
        )  # fmt: skip
        return point if math.isfinite(score) else None

    def best(self, name: str, limits: Limits) -> Point | None:
        """The best plan measured of a set within limits."""
        allowed = self.allowed(name)
        within = [
            m for m in self.trials.plans.values()
            if self.trials.fits(m.point, limits)
            and all(o in a for o, a in zip(m.point, allowed, strict=True))
        ]  # fmt: skip
        return min(within, key=lambda m: m.divergence).point if within else None

    def correction(self) -> Corrected:
        """What the plans measured so far say of the prediction."""
        plans = list(self.trials.plans.values())
        return corrected(
            self.harm, [m.point for m in plans], [m.divergence for m in plans], least=LEAST
        )

    def ground(self, name: str, limits: Limits, correct: Corrected | None) -> Ground:
        others = [(self.bills[k], v) for k, v in limits.items() if k != BITOPS]
        # nothing costs more than the original
        limit = limits.get(BITOPS, 2 * self.bill.of(self.trials.space.original))
        return Ground(
            harm=self.harm, bill=self.bill, limit=limit, allowed=self.allowed(name),
            correct=correct or (lambda point: 0.0), others=others,
        )  # fmt: skip

    def allowed(self, name: str) -> list[list[int]]:
        """Per choice the options of a set; all else in the most bits."""
        return allowed(self.harm, SETS[name])

    def _measure(self, points: Sequence[Point]) -> None:
        fresh = list(dict.fromkeys(p for p in points if p not in self.trials.plans))
        told = [(self.harm.predicted(p), math.nan) for p in fresh]
        self.trials.measure(fresh, foretold=told)


def allowed(harm: Displaced, kinds: frozenset[str]) -> list[list[int]]:
    """Per choice the options of these kinds (see `SETS`), and the one in the most bits."""
    found = []
    for i, choice in enumerate(harm.space.choices):
        mine = [
            o
            for o, option in enumerate(choice.options)
            if o == harm.mild[i] or (_kind(option, o > harm.mild[i]) in kinds)
        ]
        found.append(mine)
    return found


def _kind(option: object, cheaper: bool) -> str:
    """Which kind of saving an option is; "" for none."""
    if isinstance(option, Drop):
        return "drop"
    if isinstance(option, Reuse):
        return "reuse"
    kind = getattr(option, "kind", "")
    return {"weight": "weight", "step": "tensor"}.get(kind, "") if cheaper else ""
