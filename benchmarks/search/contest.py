"""Contest: one searcher on one enumerated space, and how far from the truth it is at every F."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allot.explore import Searcher
from allot.trials import Spent, Trials
from benchmarks.search import store
from benchmarks.search.enumerate import Case
from benchmarks.search.replay import Replay
from benchmarks.search.signals import Scenes
from benchmarks.search.truth import Truth, known, truth

# where along a search its front is compared with the true one
PASSES = (16, 24, 32, 48, 64, 96, 128)
MOST = float(PASSES[-1])


@dataclass(frozen=True, kw_only=True, eq=False)
class Entry:
    """A way to search. signals: the tables it is given, by name.  drawn: whether chance is in
    it, so that it is run for several seeds.  most: F it may spend."""

    name: str
    signals: tuple[str, ...]
    searcher: Searcher
    drawn: bool
    most: float = MOST


def run(case: Case, entry: Entry, seed: int, *, folder: Path, scenes: Scenes) -> dict[str, Any]:
    """Excess over the true front (search and held-out samples) and hypervolume at `PASSES`."""
    e = store.read(case.path(folder))
    true = truth(e)
    bill = case.family.cost(e.space)
    trials = Trials(
        evaluator=Replay(e),
        bills={e.bill: bill},
        originals={e.bill: bill.of(e.space.original)},
        levels=true.levels,
        evaluations=entry.most,
    )
    start = time.perf_counter()
    evaluator = trials.evaluator
    assert isinstance(evaluator, Replay)
    harm = [scenes.table(case, name, evaluator, seed) for name in entry.signals]
    signals = evaluator.spent
    try:
        entry.searcher(trials, harm=harm, seed=seed)
    except Spent:
        pass  # as far as was allowed
    return {
        "case": case.name,
        "entry": entry.name,
        "seed": seed,
        "signals": signals,
        "spent": evaluator.spent,
        "plans": len(trials.plans),
        "seconds": time.perf_counter() - start,
        **_along(true, trials.trace),
    }


def _along(true: Truth, trace: Sequence[tuple[float, tuple[int, ...]]]) -> dict[str, Any]:
    found = [known(trace, f) for f in PASSES]
    return {
        "excess": [true.excess(points) for points in found],
        "held_out": [true.excess(points, held_out=True) for points in found],
        "hypervolume": [true.hypervolume(points) if points else 0.0 for points in found],
    }
