"""Forecast: what a job would search and cost, from the network alone; writes nothing."""

from __future__ import annotations

import math
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch

from allot import bill, packed, setup
from allot.errors import BudgetError
from allot.job import Budget
from allot.layer_times import needed
from allot.option import count
from allot.originals import expected
from allot.recover import STEADY, STRONG, Recovery
from allot.search import Effort
from allot.solve.milp import smallest
from allot.space import Space
from allot.target import Target
from allot.task import Task

_STRENGTHENED = 5
_PREFIX = 2**30
# plans timed to fit the latency model; seconds of an exact solve, of timing a layer, a plan
_PROBES, _SOLVE_S, _LAYER_S, _PLAN_S = 6, 1.0, 0.12, 1.0


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a job would do.

    plans: how many there are.  passes: forward-pass equivalents over the search set.  seconds,
    memory_bytes: rough.  smallest: bill -> (least value, share of the original); of the bills
    known without a measurement.  unreachable: why a budget cannot be met, "" where none is known.
    """

    plans: int
    passes: float
    seconds: float
    memory_bytes: float
    smallest: Mapping[str, tuple[float, float]]
    unreachable: str


def forecast(
    task: Task,
    space: Space,
    *,
    target: Target,
    asked: Sequence[Budget] = (),
    effort: Effort = Effort(),
    originals: Collection[str] = (),
) -> Forecast:
    """What searching a space would cost and the least it could reach; runs one batch.

    originals: names of rewritten networks that are compared first.
    """
    graph = space.graph
    bills = {
        "size": bill.size(space, header=packed.header_bytes(graph)),
        "bitops": bill.bitops(space, target),
    }
    before = {
        "size": float(graph.folded_bytes),
        "bitops": float(sum(x.macs for x in graph.layers)) * 32 * 32,
    }
    least = {k: smallest(space.counts, b)[1] for k, b in bills.items()}
    unreachable = ""
    try:
        setup.limits(space, [b for b in asked if b.bill in bills], bills=bills, originals=before)
    except BudgetError as e:
        unreachable = str(e)
    passes = _passes(task, space, effort) + expected(task, space, originals)
    return Forecast(
        plans=math.prod(space.counts),
        passes=passes,
        seconds=_seconds(task, space, target=target, passes=passes, effort=effort),
        memory_bytes=_memory(task, space),
        smallest={k: (v, v / before[k]) for k, v in least.items()},
        unreachable=unreachable,
    )


def _passes(task: Task, space: Space, effort: Effort) -> float:
    """Forward passes over the search set, recovery and certification counted pro rata."""
    n = len(task.search)

    def each(recovery: Recovery) -> float:
        return 1 + (3 if recovery.in_order else 1) * recovery.samples / n

    plans = effort.levels + effort.rounds * effort.batch
    # forward, two draws backward, and each option's own layer once
    signal = 1 + 4 + _options(space) + each(STEADY)
    proof = plans * len(task.certify) / n
    return signal + plans * each(STEADY) + _STRENGTHENED * each(STRONG) + proof


def _options(space: Space) -> float:
    """Options per choice, the original not counted: how often every layer is replayed alone."""
    return sum(c - 1 for c in space.counts) / max(1, len(space.counts))


def _seconds(task: Task, space: Space, *, target: Target, passes: float, effort: Effort) -> float:
    data = task.search.subset(slice(0, min(100, len(task.search))))
    was_training = task.model.training
    task.model.eval()
    try:
        with torch.no_grad():
            times = []
            for _ in range(8):
                start = time.monotonic()
                task.forward(task.model, data.inputs)
                times.append(time.monotonic() - start)
            once = min(times) * len(task.search) / len(data)
    finally:
        task.model.train(was_training)
    solves = effort.levels + effort.rounds * effort.batch
    total = passes * once + solves * _SOLVE_S
    if target.timed:
        total += len(needed(space, target)) * _LAYER_S + _PROBES * _PLAN_S
    return total


def _memory(task: Task, space: Space) -> float:
    """Encoded layers of every option, second moments of inputs, recorded outputs of stages."""
    weights = {c.site: len(c.options) for c in space.choices}
    total = 0.0
    for x in space.graph.layers:
        fan_in = count(x.weight[1:])
        total += 4 * count(x.weight) * weights.get(f"{x.module}.weight", 1) + 4 * fan_in**2
    recorded = 4 * len(task.search) * sum(count(x.out_shape) for x in space.graph.layers)
    return total + min(_PREFIX, recorded)
