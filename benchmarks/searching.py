"""One search of a space as the main job runs it, for benchmarks that need no artefact."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from allot.bank import Bank
from allot.harm.fisher import fisher
from allot.in_process import InProcess
from allot.memo import Memo
from allot.recover import STEADY, Recovery, moments
from allot.repair import repaired
from allot.scene import Scene
from allot.search import Effort, Search
from allot.space import Point, Space
from allot.sweep import outputs
from allot.table import Table
from allot.task import Data, Task
from allot.trials import Limits, Spent, Trials


def searched(
    task: Task,
    bank: Bank,
    space: Space,
    data: Data,
    *,
    bills: Mapping[str, Table],
    levels: Sequence[Limits],
    seed: int,
    effort: Effort,
    evaluations: float = float("inf"),
    recovery: Recovery = STEADY,
) -> Trials:
    """All plans that the closed loop measured on the data, from the Fisher signal on."""
    evaluator = InProcess(
        space=space, task=task, bank=bank, data=data, recovery=recovery, memo=Memo()
    )
    trials = Trials(
        evaluator=evaluator,
        bills=bills,
        originals={k: b.of(space.original) for k, b in bills.items()},
        levels=levels,
        evaluations=evaluations,
    )
    scene = Scene(space=space, task=task, bank=bank, data=data, evaluator=evaluator, seed=seed)
    loop = Search(trials, harm=[fisher(scene)], seed=seed, effort=effort)
    try:
        loop.run()
    except Spent:
        pass  # as far as was allowed
    return trials


def held(
    task: Task,
    bank: Bank,
    space: Space,
    point: Point,
    *,
    recovery: Recovery = STEADY,
    seed: int = 0,
) -> Tensor:
    """Divergence per certify sample of a point after a recovery, that of the search: [n]."""
    original = moments(task, bank.skeleton, bank.graph, samples=recovery.samples)
    standins = repaired(
        bank, task, space.options(point), recovery=recovery, original=original, seed=seed
    )
    reference = outputs(task, bank.skeleton, task.certify, batch=250)
    with bank.trial(standins) as model:
        return task.divergence(reference, outputs(task, model, task.certify, batch=250))
