"""Explore: the harm of every option estimated, then the space searched; all that is measured."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from allot.capped import Capped
from allot.levels import levels
from allot.run import Run
from allot.scene import Scene
from allot.search import EFFORT, Effort, Search
from allot.table import Table
from allot.trials import Limits, Spent, Trials

# (scene, progress=) -> harm of every option, see `allot.harm`
Signal = Callable[..., Table]


class Searcher(Protocol):
    """Measures plans through the trials until it has no more to try, or `Spent` ends it."""

    def __call__(self, trials: Trials, *, harm: Sequence[Table], seed: int) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Method:
    """How a space is searched.

    signals: estimates of harm, the main one first.  searcher: None for the closed loop of
    `allot.search`, with `effort`.  evaluations: F that signals and search may spend in all.
    """

    signals: Sequence[Signal]
    searcher: Searcher | None = None
    effort: Effort = EFFORT
    evaluations: float = float("inf")


@dataclass(frozen=True, kw_only=True, eq=False)
class Explored:
    """trials: every plan that was measured.  harm: what the signals said.  near: measures
    further plans near given limits."""

    trials: Trials
    harm: Sequence[Table]
    near: Callable[[Limits], None]


def explore(run: Run, method: Method, *, limits: Limits) -> Explored:
    """The signals asked, then the space searched.

    Raises InputError where the signals would spend what was allowed.
    """
    with run.stages.stage("harm") as progress:
        harm = _harm(run, method, progress)
    with run.stages.stage("search") as progress:
        trials = Trials(
            evaluator=run.evaluator,
            bills=run.bills,
            originals=run.originals,
            levels=(),
            evaluations=method.evaluations,
            progress=progress,
            out_of_time=run.stages.over,
        )
        trials.levels = levels(
            method.effort.levels, limits=limits, least=trials.least(), originals=run.originals
        )
        loop = Search(trials, harm=harm, seed=run.job.seed, effort=method.effort)
        try:
            if method.searcher is not None:
                method.searcher(trials, harm=harm, seed=run.job.seed)
            else:
                loop.run()
                if limits:
                    loop.near(limits)
        except Spent:
            pass  # as far as was allowed
    return Explored(trials=trials, harm=harm, near=loop.near)


def _harm(run: Run, method: Method, progress: Callable[[float], None]) -> list[Table]:
    scene = Scene(
        space=run.space,
        task=run.task,
        bank=run.bank,
        data=run.task.search,
        evaluator=run.evaluator,
        seed=run.job.seed,
    )
    found = []
    for i, signal in enumerate(method.signals):
        capped = Capped(run.evaluator, most=method.evaluations)

        def report(share: float, at: int = i, capped: Capped = capped) -> None:
            capped.reached(share)
            progress((at + share) / len(method.signals))

        found.append(signal(replace(scene, evaluator=capped), progress=report))
    return found
