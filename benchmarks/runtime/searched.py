"""Searched: plans within a latency budget, against the uniform plan that takes as long.

The budget is what the uniform plan takes, every weight and every tensor between layers in 8 bits,
or a tenth less, against that plan with every group of channels narrowed alike. Both plans go
through the same recovery; both files are run and timed in turn, and what they lose is taken from
their outputs on held-back samples.
`python -m benchmarks.runtime.searched NETWORK ...` measures some networks.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor

from allot.bank import Bank
from allot.calibrate import calibrate, needed
from allot.clock import Clock, key, predictions, repeated
from allot.deploy import deploy
from allot.finalists import finalists
from allot.harm.fisher import fisher
from allot.in_process import InProcess
from allot.measure import Meter
from allot.memo import Memo
from allot.onnx_graph import to_onnx
from allot.options.width import removals
from allot.recover import Recovery
from allot.runtimes import by_name
from allot.scene import Scene
from allot.search import Effort, Search
from allot.settle import settled_
from allot.space import Point, Space
from allot.sweep import outputs
from allot.target import Workload
from allot.task import Task
from allot.timing import compare, paired
from allot.trace import trace
from allot.trials import Spent, Trials
from benchmarks.figures import Figure, at_most
from benchmarks.runtime.trained import TRAINED
from benchmarks.runtime.widths import changed, eight, formats, widths

QUICK = ("ResNet-20",)
TARGET = "openvino-cpu"
# of the budget: the plan of 8 bits, and a tenth less
SHARES = (1.0, 0.9)
PASSES, ROUNDS, DRAWS = 80.0, 60, 2000
# around the plan of 8 bits
LEVELS = (1.1, 1.0, 0.97, 0.93, 0.9, 0.85)
EFFORT = Effort(rounds=4, batch=4)
LIGHT, STRONG = Recovery(samples=128), Recovery(samples=256, in_order=True)


def run(quick: bool, seed: int) -> dict[str, Figure]:
    """Every network at both budgets; a quick run takes the smallest, at the first."""
    found: dict[str, Figure] = {}
    for name in QUICK if quick else TRAINED:
        found |= measured(name, seed, shares=SHARES[:1] if quick else SHARES)
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class Setting:
    """One network with all that measures its plans; the table of seconds is in the trials."""

    task: Task
    space: Space
    bank: Bank
    meter: Meter
    clock: Clock
    trials: Trials
    loop: Search

    def file(self, point: Point) -> bytes:
        """The exported file of a point after the strong recovery."""
        standins = self.meter.standins(self.space.options(point), STRONG)
        planned = settled_(self.bank.copy(standins), self.space.graph)
        return to_onnx(deploy(planned, self.space.graph), self.task.example())


def measured(name: str, seed: int, *, shares: Sequence[float] = SHARES) -> dict[str, Figure]:
    """Figures of one network, at each budget that a uniform plan meets and a searched one."""
    s = setting(name, seed)
    found: dict[str, Figure] = {}
    for share in shares:
        rival = uniform(s, share)
        if rival is None:
            continue
        limits = {"latency": seconds(s, rival)}
        s.loop.near(limits)
        _, best = finalists(
            s.trials, s.meter, s.clock, near=s.loop.near, limits=limits, strong=STRONG
        )
        what = "uniform W8A8" if share == 1 else f"{share:g} of it"
        label = f"{name} in {TARGET} within the latency of {what}"
        if best is None:
            found |= missed(s, limits["latency"], label=label, seed=seed)
        else:
            found |= compared(s, best.point, rival, label=label, seed=seed, name=name)
    return found


def missed(s: Setting, budget: float, *, label: str, seed: int) -> dict[str, Figure]:
    """What is said where no plan that was timed is within the budget: how near the fastest is."""
    times = [m.bills["latency"] for m in s.trials.plans.values() if m.latency_from == "measured"]
    value = min(times, default=s.clock.original_s()) / budget
    return {f"{label}: seconds over its": at_most(value, 1.0, n=len(times), seeds=[seed])}


def setting(name: str, seed: int) -> Setting:
    """A network searched at latencies around that of 8 bits everywhere."""
    task, target = TRAINED[name].task(seed), by_name(TARGET)
    graph = trace(task.model, task.forward, task.example())
    space = formats(graph, target) + widths(graph, target)
    stats = calibrate(task, task.model, needed(space))
    bank = Bank(task.model, graph=graph, stats=stats | removals(task.model, graph, stats))
    memo, workload = Memo(), Workload(batch=TRAINED[name].batch)
    clock = Clock(task, bank, target=target, workload=workload, memo=memo)
    table, _, _ = clock.table(space, seed=seed)
    evaluator = InProcess(
        space=space, task=task, bank=bank, data=task.search, recovery=LIGHT, memo=memo
    )
    top = table.of(eight(space))
    trials = Trials(
        evaluator=evaluator,
        bills={"latency": table},
        originals={"latency": clock.original_s()},
        levels=[{"latency": k * top} for k in LEVELS],
        evaluations=PASSES,
    )
    scene = Scene(
        space=space, task=task, bank=bank, data=task.search, evaluator=evaluator, seed=seed
    )
    loop = Search(trials, harm=[fisher(scene)], seed=seed, effort=EFFORT)
    try:
        loop.run()
    except Spent:
        pass  # as far as was allowed
    trials.evaluations = math.inf
    meter = Meter(task, bank, task.search, memo=memo, key="search")
    return Setting(
        task=task, space=space, bank=bank, meter=meter, clock=clock, trials=trials, loop=loop
    )


def uniform(s: Setting, share: float) -> Point | None:
    """The plan of 8 bits everywhere whose seconds are that share of those at full width.

    Every group of channels keeps the same ratio, or the next one above that it has; None where no
    ratio takes as little as the share.
    """
    table, base = s.trials.bills["latency"], eight(s.space)
    groups = {
        i: [o.ratio for o in c.options]  # type: ignore[attr-defined]
        for i, c in enumerate(s.space.choices)
        if s.space.graph.site(c.site).kind == "channels"
    }
    for ratio in sorted({r for ratios in groups.values() for r in ratios}, reverse=True):
        point = list(base)
        for i, ratios in groups.items():
            point[i] = max(k for k, r in enumerate(ratios) if r >= ratio)
        if table.of(point) <= share * table.of(base):
            return tuple(point)
    return base if share >= 1 else None


def seconds(s: Setting, point: Point) -> float:
    """Measured seconds of a point, by its ratio to the original of the same turns."""
    name = key(point)
    timed = s.clock.times({name: s.bank.standins(s.space.options(point))}, rounds=ROUNDS)
    return timed[name].ratio * s.clock.original_s()


def compared(
    s: Setting, point: Point, rival: Point, *, label: str, seed: int, name: str
) -> dict[str, Figure]:
    """Seconds and divergence of a searched plan over those of the uniform one, file by file."""
    workload, target = s.clock.workload, s.clock.target
    sessions = {
        n: target.open(s.file(p), workload=workload)
        for n, p in (("ours", point), ("uniform", rival))
    }
    inputs = repeated(s.task.calibrate.inputs, workload.batch)
    times = compare(sessions, inputs, rounds=2 * ROUNDS, settle=1)
    r = paired(times["ours"], times["uniform"], seed=seed)
    original = outputs(s.task, s.bank.skeleton, s.task.certify, batch=250)
    losses = {
        n: s.task.divergence(
            original, predictions(x, s.task.certify.inputs, batch=workload.batch)
        ).double()
        for n, x in sessions.items()
    }
    value, low, high = share_of(*losses.values(), seed=seed)
    more = {"network": name, "stands_for": TRAINED[name].stands_for, "seeds": [seed]}
    return {
        f"{label}: seconds over its": {
            # as for speeds: the bar is held where the interval reaches it
            "value": r.value, "bar": 1.0, "holds": bool(r.low <= 1.0), "n": r.n,
            "interval": [r.low, r.high], **more,
        },
        f"{label}: divergence over its": {
            "value": value, "bar": 1.0, "holds": bool(high < 1.0), "n": len(original),
            "interval": [low, high], **more,
            "nats": {n: float(x.mean()) for n, x in losses.items()},
            "plans": len(s.trials.plans),
            "chosen": changed(s.space, point),
        },
    }  # fmt: skip


def share_of(ours: Tensor, uniform: Tensor, *, seed: int) -> tuple[float, float, float]:
    """Mean of one loss over that of another on the same samples, with the bootstrap interval."""
    a, b = ours.numpy(), uniform.numpy()
    pick = np.random.default_rng(seed).integers(0, len(a), size=(DRAWS, len(a)))
    low, high = np.quantile(a[pick].mean(1) / b[pick].mean(1), [0.025, 0.975])
    return float(a.mean() / b.mean()), float(low), float(high)


if __name__ == "__main__":
    for chosen in sys.argv[1:] or TRAINED:
        print(json.dumps(measured(chosen, 0), indent=1), flush=True)
