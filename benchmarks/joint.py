"""Are precision and width together better than each alone under the same two upper bounds?

ResNet-20 on the ideal target, stored bytes and BitOPs bounded at once, 5 budgets; width alone
runs at uniform W8A8.  Every searcher measures equally many plans per budget.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from allot import bill, packed
from allot.bank import Bank
from allot.calibrate import calibrate, needed
from allot.options import precision, width
from allot.options.width import removals
from allot.runtimes import by_name
from allot.search import Effort
from allot.solve.milp import smallest
from allot.space import Point, Space
from allot.table import Table
from allot.target import Target
from allot.task import Data, Task
from allot.trace import trace
from allot.trials import Limits
from benchmarks.figures import Figure, at_most, mean_interval
from benchmarks.searching import held, searched
from benchmarks.tasks import resnet20

LEVELS = 5
EFFORT = Effort(rounds=8)


def run(quick: bool, seed: int) -> dict[str, Figure]:
    """Ratio of divergences on held-back images: together over the better single axis."""
    task = resnet20("resnet20_jpeg", seed=seed)
    target = by_name("ideal")
    graph = trace(task.model, task.forward, task.example())
    whole = precision.space(graph, target) + width.space(graph, target)
    stats = calibrate(task, task.model, needed(whole))
    bank = Bank(task.model, graph=graph, stats=stats | removals(task.model, graph, stats))
    data = task.search.subset(slice(0, 150 if quick else 400))
    spaces = {"together": whole, "precision": alone(whole, "channels"), "width": w8a8(whole)}
    budgets = levels(spaces, target)
    points = {n: best(task, bank, s, data, target, budgets, seed) for n, s in spaces.items()}
    losses = {n: [held(task, bank, spaces[n], p) for p in found] for n, found in points.items()}
    figures = {}
    for i, limits in enumerate(budgets):
        single = min((losses["precision"][i], losses["width"][i]), key=lambda x: float(x.mean()))
        joint = losses["together"][i]
        ratio = float(joint.mean() / single.mean())
        low, high = mean_interval((joint - single).numpy())
        strict = i >= LEVELS - 2
        name = f"together over the better single axis, budget {i + 1} of {LEVELS}"
        figures[name] = at_most(
            ratio, 0.9999 if strict else 1.0, n=len(joint), seeds=[seed],
            interval=(1 + low / float(single.mean()), 1 + high / float(single.mean())),
            limits=limits, kl={n: float(x[i].mean()) for n, x in losses.items()},
        )  # fmt: skip
    return figures


def alone(space: Space, fixed_kind: str) -> Space:
    """The space with every choice of one kind left as it is."""
    for c in space.choices:
        if c.options[0].kind == fixed_kind:
            space = space.pin(c.site, c.options[0].label)
    return space


def w8a8(space: Space) -> Space:
    """The space with all weights and tensors in 8 bits, only width to choose."""
    for c in space.choices:
        kind = c.options[0].kind
        if kind in ("weight", "activation"):
            space = space.pin(c.site, "W8" if kind == "weight" else "A8")
    return space


def bills(space: Space, target: Target) -> dict[str, Table]:
    """Bytes and BitOPs."""
    header = packed.header_bytes(space.graph)
    return {"size": bill.size(space, header=header), "bitops": bill.bitops(space, target)}


def levels(spaces: dict[str, Space], target: Target) -> list[dict[str, float]]:
    """Budgets from W8A8 at full width down to near the least that either axis alone reaches."""
    top = {k: t.of(spaces["width"].original) for k, t in bills(spaces["width"], target).items()}
    least = {
        k: max(smallest(s.counts, bills(s, target)[k])[1] for s in spaces.values()) for k in top
    }
    shares = np.linspace(0.15, 0.75, LEVELS)
    return [{k: float(top[k] ** (1 - s) * least[k] ** s) for k in top} for s in shares]


def best(
    task: Task,
    bank: Bank,
    space: Space,
    data: Data,
    target: Target,
    budgets: Sequence[Limits],
    seed: int,
) -> list[Point]:
    """The best measured point of a space for every budget."""  # fmt: skip
    trials = searched(
        task, bank, space, data, bills=bills(space, target), levels=budgets, seed=seed,
        effort=EFFORT,
    )  # fmt: skip
    found = []
    for limits in budgets:
        measured = trials.best(limits)
        assert measured is not None
        found.append(measured.point)
    return found
