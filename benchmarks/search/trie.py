"""How near does evaluation with shared beginnings come to what sharing could save at most?

Digits ResNet, three widths of weights in eight groups, all 3^8 plans, one thread.  The ceiling is
the work of plain evaluation over the work that is left when nothing is run twice, both in MACs:
1 / sum_d c_d k^(d-n), c_d the share of group d.  Plain evaluation is timed on a sample of plans,
in CPU seconds.  More than all of the ceiling can be reached: layers near the input, which are run
least often, take more time per MAC.
"""

from __future__ import annotations

import time

import numpy as np
import torch

from allot.bank import Bank
from allot.builtin import digits_resnet
from allot.calibrate import calibrate, needed
from allot.in_process import InProcess
from allot.measure import rounded
from allot.memo import Memo
from allot.num.rounding import Nearest
from allot.recover import Recovery, moments, recovered
from allot.space import Point, Space
from allot.sweep import outputs
from allot.task import Data, Task
from allot.trace import trace
from allot.trie import enumeration_cost, trie
from benchmarks.figures import Figure
from benchmarks.search.spaces import digits_mild

RECOVERY = Recovery(samples=100)
PLAIN = 120
BAR = 0.8


def run(quick: bool, seed: int) -> dict[str, Figure]:
    """Share of the ceiling that is reached; quick: plain evaluation of 100 plans, not 120."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return _run(100 if quick else PLAIN, seed)
    finally:
        torch.set_num_threads(threads)


def _run(plain: int, seed: int) -> dict[str, Figure]:
    task = digits_resnet.task(seed)
    graph = trace(task.model, task.forward, task.example())
    space = digits_mild(graph, Nearest())
    bank = Bank(task.model, graph=graph, stats=calibrate(task, task.model, needed(space)))
    points = [tuple(map(int, p)) for p in np.ndindex(*space.counts)]
    picks = np.random.default_rng(seed).choice(len(points), size=plain, replace=False)
    sample = [points[i] for i in picks]
    # half before and half after, since a machine that others use changes its speed
    first = plain_seconds(task, bank, space, task.search, sample[: plain // 2])
    fast = trie_seconds(task, bank, space, task.search, points)
    last = plain_seconds(task, bank, space, task.search, sample[plain // 2 :])
    slow = np.concatenate([first, last])
    speedup = float(slow.mean()) / fast
    ceiling = len(points) / enumeration_cost(trie(space), space.counts)
    error = 1.96 * float(slow.std(ddof=1)) / len(slow) ** 0.5 / fast / ceiling
    reached = speedup / ceiling
    figure = {
        "value": reached,
        "bar": BAR,
        "holds": bool(reached >= BAR),
        "n": len(points),
        "interval": [reached - error, reached + error],
        "seeds": [seed],
        "speed-up": speedup,
        "ceiling": ceiling,
        "plain ms per plan": 1e3 * float(slow.mean()),
        "shared ms per plan": 1e3 * fast,
    }
    return {"trie evaluation, share of the ceiling": figure}


def plain_seconds(
    task: Task, bank: Bank, space: Space, data: Data, points: list[Point]
) -> np.ndarray:
    """CPU seconds per plan, each recovered and run from its first layer to its last: [points]."""
    goals = moments(task, bank.skeleton, bank.graph, samples=RECOVERY.samples)
    original = outputs(task, bank.skeleton, data, batch=len(data))
    assert data.labels is not None
    seconds = []
    for p in [points[0], *points]:
        begun = time.process_time()
        options = space.options(p)
        standins = recovered(bank, task, options, recovery=RECOVERY, original=goals)
        with bank.trial(standins) as model:
            y = outputs(task, model, data, batch=len(data))
        rounded(task.divergence(original, y))
        rounded(task.score(y, data.labels))
        seconds.append(time.process_time() - begun)
    # the first is repeated: it pays for what is made once
    return np.array(seconds[1:])


def trie_seconds(
    task: Task, bank: Bank, space: Space, data: Data, points: list[Point]
) -> float:  # fmt: skip
    """CPU seconds per plan when all of them are one batch."""
    evaluator = InProcess(
        space=space, task=task, bank=bank, data=data, recovery=RECOVERY, memo=Memo(),
        batch=len(data),
    )  # fmt: skip
    evaluator.losses(points[:1])
    begun = time.process_time()
    evaluator.losses(points[1:])
    return (time.process_time() - begun) / (len(points) - 1)
