"""How does the search scale? Deeper networks of one family, 8 to 128 groups of three options.

For each size one long search; the evaluations after which its front stays within 1 % of the best
front known, that of ten times the budget pooled with the plain baseline's.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from allot import bill
from allot.bank import Bank
from allot.builtin.digits_resnet import Block, halves
from allot.calibrate import calibrate, needed
from allot.harm.fisher import fisher
from allot.harm.single import single
from allot.in_process import InProcess
from allot.memo import Memo
from allot.num.rounding import Gptq
from allot.recover import Recovery
from allot.scene import Scene
from allot.search import Effort, Search
from allot.searchers.knapsack import verified
from allot.space import Point, Space
from allot.task import Data, Task, split
from allot.trace import trace
from allot.trials import Spent, Trials
from benchmarks.figures import Figure, at_most
from benchmarks.search.choices import weights

GROUPS = (8, 16, 32, 64, 128)
# forward passes: a user's search, and what the best front known is made with
USUAL, LONG = 64.0, 640.0
WITHIN = 1.01
BITS = (4, 3, 2)
RECOVERY = Recovery(samples=64)


class Deep(nn.Module):
    """Stem of stride 2, residual blocks of 12, linear: [n, 1, 16, 16] -> [n, 10]."""

    def __init__(self, blocks: int) -> None:
        nn.Module.__init__(self)
        self.conv = nn.Conv2d(1, 12, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(12)
        self.blocks = nn.Sequential(*(Block(12, 12, stride=1) for _ in range(blocks)))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(12, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.conv(x)))
        return self.linear(self.pool(self.blocks(x)).flatten(1))


def trained(blocks: int, data: Data, seed: int, *, epochs: int = 16, batch: int = 64) -> Deep:
    """Momentum and a one-cycle rate; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # layers draw their weights from it
        model = Deep(blocks).train()
    for block in model.blocks:
        assert isinstance(block, Block) and block.bn2.weight is not None
        nn.init.zeros_(block.bn2.weight)  # deep networks start as shallow ones
    generator = torch.Generator().manual_seed(seed)
    assert isinstance(data.inputs, Tensor) and data.labels is not None
    steps = -(-len(data) // batch) * epochs
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.05, total_steps=steps)
    for _ in range(epochs):
        for index in torch.randperm(len(data), generator=generator).split(batch):
            optimizer.zero_grad()
            found = nn.functional.cross_entropy(model(data.inputs[index]), data.labels[index])
            found.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def task(groups: int, seed: int, *, images: int = 200) -> Task:
    """A network with as many convolutions and linear layers as groups."""
    train, unseen = halves()
    calibrated, _ = split(train, search=200, certify=0, seed=0)
    search, held_out = split(unseen, search=images, certify=images, seed=0)
    return Task(
        name=f"digits of {groups} layers",
        model=trained((groups - 2) // 2, train, seed),
        calibrate=calibrated,
        search=search,
        certify=held_out,
    )


def scene(groups: int, seed: int) -> Scene:
    """4, 3 or 2 bits for the weight of every layer of a network."""
    found = task(groups, seed)
    graph = trace(found.model, found.forward, found.example())
    choices = tuple(weights([x.module], BITS, Gptq()) for x in graph.layers)
    space = Space(graph=graph, choices=choices)
    assert len(choices) == groups
    bank = Bank(found.model, graph=graph, stats=calibrate(found, found.model, needed(space)))
    evaluator = InProcess(
        space=space, task=found, bank=bank, data=found.search, recovery=RECOVERY, memo=Memo(),
        batch=200,
    )  # fmt: skip
    return Scene(
        space=space, task=found, bank=bank, data=found.search, evaluator=evaluator, seed=seed
    )


def trials(s: Scene, most: float) -> Trials:
    """Sixteen budgets between all layers at 4 bits and nearly all at 2."""
    table = bill.size(s.space, header=0)
    top, low = (table.of((o,) * len(s.space.counts)) for o in (0, 2))
    levels = np.geomspace(top, low + 0.15 * (top - low), 18)[1:-1]
    return Trials(
        evaluator=s.evaluator,
        bills={"size": table},
        originals={"size": top},
        levels=[{"size": float(v)} for v in levels],
        evaluations=most,
    )


def best(t: Trials, passes: float) -> np.ndarray:
    """Least log divergence at every level of what was measured by then: [levels]."""
    points: Sequence[Point] = [p for spent, p in t.trace if spent <= passes]
    found = []
    for limits in t.levels:
        logs = [math.log(t.plans[p].divergence) for p in points if t.fits(p, limits)]
        found.append(min(logs, default=math.inf))
    return np.array(found)


def study(groups: int, seed: int, *, long: float) -> dict[str, float]:
    """F to stay within 1 % of the best front known, the excess at `USUAL`, seconds of solving."""
    s = scene(groups, seed)
    t = trials(s, long)
    start = time.perf_counter()
    try:
        effort = Effort(rounds=10_000, tolerance=1e-6, batch=8)
        Search(t, harm=[fisher(s)], seed=seed, effort=effort).run()
    except Spent:
        pass  # as far as was allowed
    seconds = time.perf_counter() - start
    plain_scene = scene(groups, seed)
    plain = trials(plain_scene, long)
    try:
        verified(plain, harm=[single(plain_scene)], seed=seed)
    except Spent:
        pass
    known = np.minimum(best(t, long), best(plain, long))
    passes = sorted({f for f, _ in t.trace})
    excess = {f: math.exp(float(np.mean(best(t, f) - known))) for f in passes}
    reached = next((f for f in passes if excess[f] <= WITHIN), math.inf)
    return {
        "passes": reached,
        "excess": next(e for f, e in reversed(excess.items()) if f <= USUAL or f == passes[0]),
        "baseline": math.exp(float(np.mean(best(plain, USUAL) - known))),
        "spent": t.evaluator.spent,
        "plans": float(len(t.plans)),
        "seconds": seconds,
    }


def run(quick: bool, seed: int) -> dict[str, Figure]:
    """Per number of groups, F to come within 1 %; the bar is what a user's search takes at 8
    groups, growing linearly."""
    figures = {}
    for groups in GROUPS[:2] if quick else GROUPS:
        found = study(groups, seed, long=120.0 if quick else LONG)
        figures[f"{groups} groups: F until within 1 % of the best front known"] = at_most(
            found["passes"], LONG / 10 * max(1.0, groups / 8), n=1, seeds=[seed], study=found
        )
    return figures
