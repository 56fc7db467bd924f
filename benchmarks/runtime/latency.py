"""Latency: how far predicted seconds of random mixed plans lie from those measured.

Weights and tensors are float or in 8 bits: fewer bits are stored, and compute as 8 do.
`python -m benchmarks.runtime.latency NETWORK TARGET` measures one network in one runtime.
"""

from __future__ import annotations

import json
import sys

import numpy as np
import torch
from numpy.typing import NDArray

from allot.bank import Bank
from allot.calibrate import calibrate, needed
from allot.clock import Clock, key
from allot.memo import Memo
from allot.runtimes import by_name
from allot.space import Point, Space
from allot.target import Workload
from allot.trace import trace
from benchmarks.figures import Figure, at_most
from benchmarks.runtime.networks import NETWORKS, task
from benchmarks.runtime.uniform import eight

# mean relative error of the prediction
BARS = {"onnxruntime-cpu": 0.05, "openvino-cpu": 0.08}
CORRELATION = 0.97
PLANS, FEW, ROUNDS, TOGETHER = 40, 8, 20, 10
QUICK = ("ResNet-20",)


def run(quick: bool, seed: int) -> dict[str, Figure]:
    """Mean error and correlation over random plans, of every network in both runtimes."""
    found: dict[str, Figure] = {}
    for name in QUICK if quick else NETWORKS:
        for target in BARS:
            found |= predicted(name, target, seed, plans=FEW if quick else PLANS)
    return found


def predicted(name: str, target: str, seed: int, *, plans: int) -> dict[str, Figure]:
    """Seconds of plans that the model was not fitted on, predicted and measured."""
    network, runtime = task(name, seed=seed), by_name(target)
    graph = trace(network.model, network.forward, network.example())
    space = eight(graph, runtime)
    bank = Bank(network.model, graph=graph, stats=calibrate(network, network.model, needed(space)))
    workload = Workload(batch=NETWORKS[name].batches[0])
    clock = Clock(network, bank, target=runtime, workload=workload, memo=Memo())
    table, fit, _ = clock.table(space, seed=seed)
    points = mixed(space, plans, torch.Generator().manual_seed(seed + 1))
    measured = times(clock, space, points)
    guessed = np.array([table.of(p) for p in points])
    errors = np.abs(guessed / measured - 1)
    half = 1.96 * float(errors.std(ddof=1)) / np.sqrt(len(errors))
    mean, related = float(errors.mean()), float(np.corrcoef(guessed, measured)[0, 1])
    label = f"{name} in {target}: predicted seconds"
    return {
        f"{label}, mean error": at_most(
            mean, BARS[target], n=plans, seeds=[seed], interval=(mean - half, mean + half),
            fit_error=fit.error, range=[float(measured.min()), float(measured.max())],
        ),
        f"{label}, 1 - correlation": at_most(
            1 - related, 1 - CORRELATION, n=plans, seeds=[seed]
        ),
    }  # fmt: skip


def mixed(space: Space, count: int, generator: torch.Generator) -> list[Point]:
    """Random plans from mostly float to mostly quantized: each has a share of its own."""
    found = []
    for _ in range(count):
        share = float(torch.rand(1, generator=generator))
        point = []
        for n in space.counts:
            taken = n > 1 and float(torch.rand(1, generator=generator)) < share
            point.append(int(torch.randint(1, n, (1,), generator=generator)) if taken else 0)
        found.append(tuple(point))
    return found


def times(clock: Clock, space: Space, points: list[Point]) -> NDArray[np.float64]:
    """Measured seconds, each as the ratio to the original of its turns times the original's."""
    ratios = []
    for i in range(0, len(points), TOGETHER):
        plans = {key(p): clock.bank.standins(space.options(p)) for p in points[i : i + TOGETHER]}
        ratios += [t.ratio for t in clock.times(plans, rounds=ROUNDS).values()]
    return np.array(ratios) * clock.original_s()


if __name__ == "__main__":
    print(json.dumps(predicted(sys.argv[1], sys.argv[2], 0, plans=PLANS), indent=1), flush=True)
