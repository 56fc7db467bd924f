"""Are precision and width together better than each alone under the same two upper bounds?

ResNet-20 on the ideal target, stored bytes and BitOPs bounded at once, 5 budgets; width alone
runs at uniform W8A8.  Every searcher measures equally many plans per budget.
"""

from __future__ import annotations

import numpy as np
import torch

from allot import bill, packed
from allot.bank import Bank
from allot.calibrate import calibrate, needed
from allot.harm.one_at_a_time import one_at_a_time
from allot.measure import Meter
from allot.memo import Memo
from allot.options import precision, width
from allot.options.width import removals
from allot.runtimes import by_name
from allot.search import Effort, Search
from allot.solve.milp import smallest
from allot.space import Point, Space
from allot.sweep import outputs
from allot.target import Target
from allot.task import Task
from allot.trace import trace
from benchmarks.figures import Figure, at_most, mean_interval
from benchmarks.tasks import resnet20

LEVELS = 5
EFFORT = Effort(levels=0, rounds=2, extra=2, seconds=6.0)


def run(quick: bool, seed: int) -> dict[str, Figure]:
    """Ratio of divergences on held-back images: together over the better single axis."""
    task = resnet20("resnet20_jpeg", seed=seed)
    target = by_name("ideal")
    graph = trace(task.model, task.forward, task.example())
    whole = precision.space(graph, target) + width.space(graph, target)
    stats = calibrate(task, task.model, needed(whole))
    bank = Bank(task.model, graph=graph, stats=stats | removals(task.model, graph, stats))
    data = task.search.subset(slice(0, 150 if quick else 400))
    meter = Meter(task, bank, data, memo=Memo())
    spaces = {"together": whole, "precision": alone(whole, "channels"), "width": w8a8(whole)}
    budgets = levels(spaces, target)
    best = {name: searched(s, meter, target, budgets) for name, s in spaces.items()}
    losses = {n: [held(task, bank, spaces[n], p) for p in found] for n, found in best.items()}
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


def bills(space: Space, target: Target) -> dict[str, object]:
    """Bytes and BitOPs."""
    header = packed.header_bytes(space.graph)
    return {"size": bill.size(space, header=header), "bitops": bill.bitops(space, target)}


def levels(spaces: dict[str, Space], target: Target) -> list[dict[str, float]]:
    """Budgets from W8A8 at full width down to near the least that either axis alone reaches."""
    top = {k: t.of(spaces["width"].original) for k, t in bills(spaces["width"], target).items()}  # type: ignore[attr-defined]
    least = {
        k: max(smallest(s.counts, bills(s, target)[k])[1] for s in spaces.values())  # type: ignore[arg-type]
        for k in top
    }
    shares = np.linspace(0.15, 0.75, LEVELS)
    return [{k: float(top[k] ** (1 - s) * least[k] ** s) for k in top} for s in shares]


def searched(
    space: Space, meter: Meter, target: Target, budgets: list[dict[str, float]]
) -> list[Point]:
    """The best measured point of a space for every budget."""
    tables = bills(space, target)
    originals = {k: t.of(space.original) for k, t in tables.items()}  # type: ignore[attr-defined]
    harm = one_at_a_time(space, meter)
    found = []
    search = Search(
        space, meter, harm=harm, bills=tables, limits=budgets[0], originals=originals,
        effort=EFFORT,
    )  # type: ignore[arg-type] # fmt: skip
    for limits in budgets:
        for _ in range(EFFORT.rounds):
            search.near(limits)
            search.correct()
    for limits in budgets:
        within = [m for m in search.plans.values() if all(m.bills[k] <= limits[k] for k in limits)]
        found.append(min(within, key=lambda m: m.divergence).point)
    return found


def held(task: Task, bank: Bank, space: Space, point: Point) -> torch.Tensor:
    """Divergence per certify image of a point after the recovery of the search: [n]."""
    from allot.recover import STEADY, moments, recovered

    original = moments(task, bank.skeleton, bank.graph, samples=STEADY.samples)
    standins = recovered(bank, task, space.options(point), recovery=STEADY, original=original)
    reference = outputs(task, bank.skeleton, task.certify, batch=250)
    with bank.trial(standins) as model:
        return task.divergence(reference, outputs(task, model, task.certify, batch=250))
