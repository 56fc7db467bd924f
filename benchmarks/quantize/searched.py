"""ResNet-20 with bits searched: against ModelOpt at W?A8, and against uniform GPTQ in float.

Codes and the scales of every output channel are counted, biases and activation scales are not.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from allot.bank import Bank
from allot.calibrate import calibrate, needed
from allot.options import precision
from allot.options.precision import Weight
from allot.reconstruct.setting import Reconstruction
from allot.recover import Recovery
from allot.runtimes import by_name
from allot.scheme import Scheme
from allot.search import Effort
from allot.task import Task
from allot.trace import trace
from benchmarks.against_modelopt import bits_table, weights
from benchmarks.figures import Figure, at_most, mean_interval
from benchmarks.quantize.judged import judged
from benchmarks.searching import held, searched
from benchmarks.tasks import RESNET20, resnet20

PEERS = Path(__file__).parents[1] / "results"
PEER = {"resnet20": "peer_modelopt.json", "resnet20_jpeg": "peer_modelopt_jpeg.json"}
UNIFORM = (3, 4)
IMAGES, SPREAD = 400, 6
STRONG = Recovery(samples=512, in_order=True, learning=Reconstruction())
IN_ORDER = Recovery(samples=512, in_order=True)


def run(quick: bool, seed: int) -> dict[str, Figure]:
    """Both rows, on both networks; the first where the peer was run."""
    figures: dict[str, Figure] = {}
    for name in RESNET20:
        task = resnet20(name, seed=seed)
        if (PEERS / PEER[name]).exists():
            figures |= against_modelopt(name, task, seed)
        figures |= against_uniform(name, task, seed)
    return figures


def against_modelopt(name: str, task: Task, seed: int) -> dict[str, Figure]:
    """KL over that of ModelOpt's auto_quantize at 4.2 bits a weight, 8-bit tensors."""
    path = PEERS / PEER[name]
    rows = json.loads(path.read_text())["results"]
    row = next(r for r in rows if r["seed"] == seed and r["budget_bits"] == 4.2)
    peer = float(row["certify"]["kl_mean_nat"])
    kl, bits = found(task, 4.2, seed=seed, tensors="A8")
    low, high = mean_interval(kl)
    return {
        f"{name} at <= 4.2 bits searched, A8: KL over ModelOpt's": at_most(
            float(kl.mean()) / peer, 0.1, n=len(kl), seeds=[seed],
            interval=(low / peer, high / peer), kl=float(kl.mean()), peer=peer, bits=bits,
        )
    }  # fmt: skip


def against_uniform(name: str, task: Task, seed: int) -> dict[str, Figure]:
    """KL over that of uniform GPTQ in order with matched statistics, at the same bits."""
    figures = {}
    for bits in UNIFORM:
        scheme = Scheme(weight=Weight(bits=bits), recovery=IN_ORDER)
        base = judged(task, scheme, task.certify, seed=seed)
        kl, used = found(task, base.bits, seed=seed, tensors="float")
        low, high = mean_interval(kl)
        figures[f"{name} at {base.bits:.2f} bits searched: KL over uniform GPTQ's"] = at_most(
            float(kl.mean()) / base.mean, 0.6, n=len(kl), seeds=[seed],
            interval=(low / base.mean, high / base.mean),
            kl=float(kl.mean()), uniform=base.mean, bits=used,
        )  # fmt: skip
    return figures


def found(task: Task, most: float, *, seed: int, tensors: str) -> tuple[NDArray[np.float64], float]:
    """KL per certify image of the best plan within bits per weight, and the bits it takes.

    tensors: the option of every tensor between layers.
    """
    graph, target = trace(task.model, task.forward, task.example()), by_name("openvino-cpu")
    space = precision.space(graph, target)
    for site in graph.sites:
        space = space.pin(site.name, tensors) if site.kind == "activation" else space
    bank = Bank(task.model, graph=graph, stats=calibrate(task, task.model, needed(space)))
    levels = [{"size": b * weights(graph) / 8} for b in (*np.geomspace(1.25 * most, most, SPREAD),)]
    trials = searched(
        task, bank, space, task.search.subset(slice(0, IMAGES)),
        bills={"size": bits_table(space)}, levels=levels, seed=seed, effort=Effort(rounds=8),
    )  # fmt: skip
    best = trials.best(levels[-1])
    assert best is not None
    kl = held(task, bank, space, best.point, recovery=STRONG, seed=seed)
    return kl.double().numpy(), 8 * best.bills["size"] / weights(graph)
