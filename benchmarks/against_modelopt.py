"""How much less does allot lose than NVIDIA ModelOpt's auto_quantize at equal bits per weight?

Published ResNet-20, 8-bit activations everywhere, scales counted, the same images and seeds; the
peer's numbers come from results/peer_modelopt.json (see peers/).
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from allot.bank import Bank
from allot.calibrate import calibrate, needed
from allot.options import precision
from allot.runtimes import by_name
from allot.search import Effort
from allot.site import Graph
from allot.space import Space
from allot.table import Table
from allot.trace import trace
from benchmarks.figures import Figure, at_most, mean_interval
from benchmarks.searching import held, searched
from benchmarks.tasks import resnet20

BITS = (4.2, 5.0)
# of the search set; the losses reported are of all certify images
IMAGES = 300
LEVELS = 6
PEER = Path(__file__).parent / "results" / "peer_modelopt.json"


def run(quick: bool, seed: int) -> dict[str, Figure]:
    """KL to the original over a fifth of the peer's, per budget."""
    seeds = [seed]
    effort = Effort(rounds=2 if quick else 6)
    images = 100 if quick else IMAGES
    ours = {s: losses(s, effort, images) for s in seeds}
    figures = {}
    for bits in BITS:
        peer = [_peer(bits, s) for s in seeds]
        mine = np.concatenate([ours[s][bits][0] for s in seeds])
        used = max(ours[s][bits][1] for s in seeds)
        figures[f"published ResNet-20 at <= {bits} bits: KL over ModelOpt's"] = at_most(
            float(mine.mean()) / float(np.mean(peer)), 0.2, n=len(mine), seeds=seeds,
            interval=tuple(v / float(np.mean(peer)) for v in mean_interval(mine)),
            kl=float(mine.mean()), peer_kl=float(np.mean(peer)), bits=used,
        )  # fmt: skip
    return figures


def losses(seed: int, effort: Effort, images: int) -> dict[float, tuple[np.ndarray, float]]:
    """Budget -> KL per certify image [n] in nats of the best plan, and its bits per weight."""
    task = resnet20("resnet20", seed=seed)
    graph, target = trace(task.model, task.forward, task.example()), by_name("openvino-cpu")
    space = precision.space(graph, target)
    for site in graph.sites:
        space = space.pin(site.name, "A8") if site.kind == "activation" else space
    bank = Bank(task.model, graph=graph, stats=calibrate(task, task.model, needed(space)))
    data = task.search.subset(slice(0, images))
    levels = [{"size": most * weights(graph) / 8} for most in np.geomspace(5.4, 4.0, LEVELS)]
    levels += [{"size": most * weights(graph) / 8} for most in BITS]
    trials = searched(
        task, bank, space, data, bills={"size": bits_table(space)}, levels=levels, seed=seed,
        effort=effort,
    )  # fmt: skip
    found = {}
    for most in BITS:
        best = trials.best({"size": most * weights(graph) / 8})
        assert best is not None
        kl = held(task, bank, space, best.point)
        found[most] = (kl.numpy(), 8 * best.bills["size"] / weights(graph))
    return found


def weights(graph: Graph) -> int:
    """Number of convolution and linear weights."""
    return sum(int(np.prod(x.weight)) for x in graph.layers)


def bits_table(space: Space) -> Table:
    """Bytes of codes and scales alone, as the peer counts: no bias, no container."""
    from allot.bill import layer_table

    return layer_table(
        space,
        lambda s: s.elements * s.stored_bits / 8 + s.outs * s.row_bytes,
        unit="byte",
        origin="codes and scales",
    )


def _peer(bits: float, seed: int) -> float:
    rows = json.loads(PEER.read_text())["results"]
    found = [r for r in rows if r["seed"] == seed and r["budget_bits"] == bits]
    return float(found[0]["certify"]["kl_mean_nat"])
