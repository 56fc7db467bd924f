"""Size: bytes on the disk against their account, and what entropy coding takes off them."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from allot import bill, disk, entropy_layers, packed
from allot.artefact import WEIGHTS, read_weights, write_weights
from allot.bank import Bank
from allot.calibrate import calibrate, needed
from allot.deploy import deploy
from allot.onnx_graph import to_onnx
from allot.options.precision import Weight
from allot.reconstruct.rated import Rated
from allot.recover import Recovery
from allot.scheme import Quantized, Scheme, quantized
from allot.site import Graph
from allot.space import Choice, Space
from allot.sweep import outputs
from allot.task import Data, Task
from allot.trace import trace
from benchmarks.figures import Figure, at_most, mean_interval
from benchmarks.quantize.languages import NETWORKS, judged
from benchmarks.tasks import RESNET20, resnet20

# times smaller than packed, without loss
LOSSLESS = {4: 1.14, 8: 1.10}
# times smaller than float32 -> points of top-1 that may be lost
RATIOS = {12: 0.5, 20: 3.0}
# times smaller than packed in 4 bits with the transform, at no more divergence
TRANSFORMED = 1.3
IN_ORDER = Recovery(samples=1024, in_order=True)
# what histograms and the coder take beyond the entropy, of all codes
OVERHEAD = 0.009
STEPS, QUICK_STEPS = 200, 40


def run(quick: bool, seed: int) -> dict[str, Figure]:
    """All rows of the table about bytes."""
    names = RESNET20[:1] if quick else RESNET20
    found = account(resnet20(RESNET20[0], seed=seed), plans=2 if quick else 12, seed=seed)
    for name in names:
        found |= lossless(resnet20(name, seed=seed), seed=seed)
    for name in () if quick else NETWORKS:
        found |= lossless(judged(name), seed=seed)
    task = resnet20(RESNET20[0], seed=seed)
    found |= transformed(task, quick=quick, seed=seed)
    for ratio, points in RATIOS.items():
        found |= smaller(task, ratio, points, quick=quick, seed=seed)
    return found


def account(task: Task, *, plans: int, seed: int) -> dict[str, Figure]:
    """Random plans written, packed and coded: bytes by which files miss what was billed."""
    graph = trace(task.model, task.forward, task.example())
    options = tuple(Weight(bits=b) for b in (32, *range(8, 1, -1)))
    sites = [s.name for s in graph.sites if s.kind == "weight" and not s.fixed]
    space = Space(graph=graph, choices=tuple(Choice(site=s, options=options) for s in sites))
    stats = calibrate(task, task.model, needed(space))
    bank = Bank(task.model, graph=graph, stats=stats)
    tables = {
        "packed": bill.size(space, header=packed.header_bytes(graph)),
        "entropy coded": disk.table(space, bank),
    }
    generator, missed = np.random.default_rng(seed), dict.fromkeys(tables, 0.0)
    for _ in range(plans):
        point = tuple(int(i) for i in generator.integers(0, len(options), len(sites)))
        deployed = deploy(bank.copy(bank.standins(space.options(point))), graph)
        for name, table in tables.items():
            size = written(task, deployed, graph, coded=name != "packed")
            missed[name] = max(missed[name], abs(size - table.of(point)))
    return {
        f"{task.name}: bytes by which its file, {name}, misses the account": at_most(
            value, 0, n=plans, seeds=[seed]
        )
        for name, value in missed.items()
    }


def written(task: Task, deployed: nn.Module, graph: Graph, *, coded: bool) -> int:
    """Bytes of the weights file of a network, which is also read again."""
    onnx = to_onnx(deployed, task.example())
    with tempfile.TemporaryDirectory() as at:
        write_weights(Path(at), onnx, deployed, graph, coded=coded)
        read_weights(Path(at))
        return (Path(at) / WEIGHTS).stat().st_size


def lossless(task: Task, *, seed: int) -> dict[str, Figure]:
    """Layers of one width each, entropy coded: the whole file over the packed one."""
    found = {}
    for bits, bar in LOSSLESS.items():
        scheme = Scheme(weight=Weight(bits=bits), recovery=Recovery(samples=512, in_order=True))
        made = quantized(task, scheme, seed=seed)
        deployed = deploy(made.network(), made.graph)
        stored = packed.stored(deployed)
        # what belongs to no layer (embeddings, norms) stays in float, whatever is done to layers
        plain = sum(len(d) for _, d in stored.values()) + packed.header_bytes(made.graph)
        coded = plain - sum(disk.saved(deployed).values())
        speed = decoded(deployed)
        found[f"{task.name} W{bits}: bytes entropy coded over packed"] = at_most(
            coded / plain, 1 / bar, n=len(stored), seeds=[seed], times=plain / coded,
            decoded_mb_per_s=speed,
        )  # fmt: skip
    return found


def decoded(deployed: nn.Module) -> float:
    """Million codes a second that are read back, one thread, three runs of which the best."""
    coded = [entropy_layers.coded(e, d) for e, d in packed.stored(deployed).values()]
    coded = [(e, d) for e, d in coded if "coder" in e]
    codes = sum(int(np.prod(e["shape"])) for e, _ in coded)
    times = []
    for _ in range(3):
        start = time.process_time()
        for e, d in coded:
            entropy_layers.plain(e, d)
        times.append(time.process_time() - start)
    return codes / 1e6 / max(min(times), 1e-9)


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """What a network is on data: bytes of its file, divergence and points lost per sample."""

    size: int
    kl: NDArray[np.float64]
    lost: NDArray[np.float64]


def on(task: Task, made: Quantized, data: Data, *, coded: bool) -> Judged:
    """The network that a scheme made, its file written."""
    original = outputs(task, task.model, data, batch=250)
    found = outputs(task, made.network(), data, batch=250)
    assert data.labels is not None
    scores = [task.score(o, data.labels).double().numpy() for o in (original, found)]
    return Judged(
        size=written(task, deploy(made.network(), made.graph), made.graph, coded=coded),
        kl=task.divergence(original, found).double().numpy(),
        lost=100 * (scores[0] - scores[1]),
    )


def rated(task: Task, bits: float, *, quick: bool, seed: int) -> Quantized:
    """Weights in so many bits on average once they are coded."""
    learning = Rated(bits=bits, steps=QUICK_STEPS if quick else STEPS)
    recovery = replace(IN_ORDER, in_order=False, learning=learning)
    return quantized(task, Scheme(weight=Weight(bits=6), recovery=recovery), seed=seed)


def room(graph: Graph, size: float) -> float:
    """Bits that a file of `size` bytes has for each code, all else in it taken off."""
    rows = sum(x.weight[0] for x in graph.layers)
    weights = sum(int(np.prod(x.weight)) for x in graph.layers)
    left = size - packed.header_bytes(graph) - graph.loose - 8 * rows
    return 8 * left * (1 - OVERHEAD) / weights


def unseen(task: Task, *, quick: bool) -> Data:
    return task.certify.subset(slice(0, 1000)) if quick else task.certify


def transformed(task: Task, *, quick: bool, seed: int) -> dict[str, Figure]:
    """The transform against 4 bits rounded in order: its file over the packed one, and the KL."""
    data = unseen(task, quick=quick)
    made = quantized(task, Scheme(weight=Weight(bits=4), recovery=IN_ORDER), seed=seed)
    plain = on(task, made, data, coded=False)
    bits = room(made.graph, plain.size / (TRANSFORMED * 1.005))
    other = on(task, rated(task, bits, quick=quick, seed=seed), data, coded=True)
    low, high = mean_interval(other.kl - plain.kl)
    size, label = other.size / plain.size, f"{task.name}: with the transform over packed W4"
    return {
        f"{label}, bytes": at_most(size, 1 / TRANSFORMED, n=1, seeds=[seed], times=1 / size),
        f"{label}, nats more": at_most(
            float((other.kl - plain.kl).mean()), 0.0, n=len(plain.kl), seeds=[seed],
            interval=(low, high), kl=float(other.kl.mean()), packed=float(plain.kl.mean()),
        ),
    }  # fmt: skip


def smaller(task: Task, ratio: int, points: float, *, quick: bool, seed: int) -> dict[str, Figure]:
    """A file so many times smaller than float32, and the points of top-1 that it loses."""
    graph = trace(task.model, task.forward, task.example())
    bits = room(graph, graph.folded_bytes / ratio)
    made = rated(task, bits, quick=quick, seed=seed)
    found = on(task, made, unseen(task, quick=quick), coded=True)
    share, label = found.size / graph.folded_bytes, f"{task.name} {ratio} times smaller"
    return {
        f"{label}: bytes of the weights file over float32": at_most(
            share, 1 / ratio, n=1, seeds=[seed], bytes=found.size, times=1 / share
        ),
        f"{label}: points of top-1 below the original": at_most(
            float(found.lost.mean()), points, n=len(found.lost), seeds=[seed],
            interval=mean_interval(found.lost), kl=float(found.kl.mean()), bits=bits,
        ),
    }  # fmt: skip
