"""Precision and width of ResNet-20 together: a whole front for 150 passes in all, against EvoPress
given 150 passes for every single budget.

The space is far too large to enumerate, so plans are measured; both searches use one bank, one
recovery and one way of counting.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from allot import bill
from allot.bank import Bank
from allot.calibrate import calibrate, needed
from allot.harm.fisher import fisher
from allot.in_process import InProcess
from allot.memo import Memo
from allot.options import precision, width
from allot.options.width import removals
from allot.recover import Recovery
from allot.runtimes.ideal import Ideal
from allot.scene import Scene
from allot.search import Effort, Search
from allot.space import Space
from allot.task import Data, Task
from allot.trace import trace
from allot.trials import Limits, Spent, Trials
from benchmarks.figures import Figure, at_most
from benchmarks.search.opponents.evopress import evopress
from benchmarks.tasks import resnet20

PASSES = 150.0
BUDGETS, OPPOSED = 16, (3, 7, 11, 15)
IMAGES, RECOVERY = 128, Recovery(samples=64)


def run(quick: bool, seed: int) -> dict[str, Figure]:
    """Mean over four budgets of log (divergence / EvoPress's), as a ratio."""
    passes = 60.0 if quick else PASSES
    task = resnet20("resnet20_jpeg", seed=seed)
    graph, target = trace(task.model, task.forward, task.example()), Ideal()
    space = precision.space(graph, target) + width.space(graph, target)
    stats = calibrate(task, task.model, needed(space))
    bank = Bank(task.model, graph=graph, stats=stats | removals(task.model, graph, stats))
    data, memo = task.search.subset(slice(0, IMAGES)), Memo()
    levels = budgets(space)
    ours = trials(task, bank, space, data, memo, levels, passes)
    scene = Scene(space=space, task=task, bank=bank, data=data, evaluator=ours.evaluator, seed=seed)
    try:
        harm = [fisher(scene)]
        Search(ours, harm=harm, seed=seed, effort=Effort(rounds=1000, tolerance=1e-6)).run()
    except Spent:
        pass  # as far as was allowed
    ratios, rows = [], {}
    for at in OPPOSED[-1:] if quick else OPPOSED:
        theirs = trials(task, bank, space, data, memo, [levels[at]], passes)
        try:
            evopress(theirs, harm=(), seed=seed)
        except Spent:
            pass
        a, b = ours.best(levels[at]), theirs.best(levels[at])
        assert a is not None and b is not None
        ratios.append(math.log(a.divergence / b.divergence))
        rows[f"budget {at + 1}"] = [a.divergence, b.divergence]
    mean = float(np.mean([a for a, _ in rows.values()]) / np.mean([b for _, b in rows.values()]))
    name = f"ResNet-20 precision x width: mean divergence over EvoPress's, {passes:.0f} F in all"
    return {
        name: at_most(
            mean, 0.9999, n=len(ratios), seeds=[seed], geometric=math.exp(float(np.mean(ratios))),
            divergences=rows, spent=ours.evaluator.spent, plans=len(ours.plans),
        )
    }  # fmt: skip


def budgets(space: Space) -> list[Limits]:
    """BitOPs from 8-bit weights and tensors at full width down to a twelfth of that."""
    table = bill.bitops(space, Ideal())
    for c in space.choices:
        kind = c.options[0].kind
        if kind in ("weight", "activation"):
            space = space.pin(c.site, "W8" if kind == "weight" else "A8")
    top = bill.bitops(space, Ideal()).of(space.original)
    assert table.of((0,) * len(space.choices)) > top
    return [{"bitops": float(v)} for v in np.geomspace(0.9 * top, top / 12, BUDGETS)]


def trials(
    task: Task,
    bank: Bank,
    space: Space,
    data: Data,
    memo: Memo,
    levels: Sequence[Limits],
    passes: float,
) -> Trials:
    """Fresh trials; a memo shared by all saves time, no passes."""  # fmt: skip
    evaluator = InProcess(
        space=space, task=task, bank=bank, data=data, recovery=RECOVERY, memo=memo, batch=192
    )
    table = bill.bitops(space, Ideal())
    return Trials(
        evaluator=evaluator,
        bills={"bitops": table},
        originals={"bitops": table.of(space.original)},
        levels=levels,
        evaluations=passes,
    )
