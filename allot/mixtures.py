"""Mixtures: which layers are experts, which router chooses among them, and data that all see."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from allot.errors import ModelError
from allot.routing import balanced, enough
from allot.site import Graph
from allot.sweep import Observer, observed
from allot.task import Data, Task


@dataclass(frozen=True, kw_only=True)
class Mixture:
    """router: a linear with one score for each expert.  experts: of each, the linears in it."""

    router: str
    experts: tuple[tuple[str, ...], ...]


def mixtures(graph: Graph) -> tuple[Mixture, ...]:
    """Every mixture of experts of a network, as its names and shapes tell.

    Experts are modules in a numbered row; their router is a linear that lies beside the row, runs
    before all of them and has as many outputs as the row is long.  Experts that no token of the
    traced example reached are among them, as long as it reached one.
    """
    starts = {n: i for i, (n, _) in reversed(list(enumerate(graph.order)))}
    found = []
    for row, experts in _rows(graph).items():
        beside = row.rpartition(".")[0]
        count = max(experts) + 1
        first = min(starts.get(n, len(starts)) for e in experts.values() for n in e)
        routers = [
            x.module for x in graph.layers
            if x.op == "linear" and x.weight[0] == count and starts[x.module] < first
            and x.module.startswith(f"{beside}." if beside else "")
        ]  # fmt: skip
        if routers and count == len(experts) > 1:
            # the nearest before the experts: one of an earlier row may lie beside them too
            router = max(routers, key=lambda n: starts[n])
            found.append(Mixture(router=router, experts=tuple(map(tuple, experts.values()))))
    return tuple(found)


def balanced_first(task: Task, graph: Graph, *, samples: int = 512) -> Task:
    """The task with its calibration samples in the order of `balanced_order`."""
    order = balanced_order(task, graph, samples=samples)
    return replace(task, calibrate=task.calibrate.subset(order))


def balanced_order(task: Task, graph: Graph, *, samples: int = 512) -> Tensor:
    """All calibration samples by index: first those, `samples` in number, of which the experts
    that see fewest tokens see the most (Fu et al. 2025, EAQuant).

    Recovery looks at the first samples alone, all other calibration at all of them: an expert that
    is chosen rarely loses nothing, and where there are no more than `samples` there is nothing to
    choose.  A few that reach every expert stand before all, so that a short example may do.  Raises
    ModelError for a network without experts.
    """
    found = mixtures(graph)
    if not found:
        raise ModelError(
            "no mixture of experts to balance data over: this looks for modules in a numbered row "
            "and, beside and before them, a Linear with one output for each"
        )
    counts = tokens(task, task.calibrate, found)
    chosen = torch.arange(len(counts))
    chosen = balanced(counts, samples) if samples < len(counts) else chosen
    reached = counts[chosen][:, counts[chosen].sum(0) > 0]
    few = chosen[enough(reached, 1)]
    order = dict.fromkeys([*few.tolist(), *chosen.tolist(), *range(len(counts))])
    return torch.tensor([*order])


def tokens(task: Task, data: Data, found: tuple[Mixture, ...]) -> Tensor:
    """Tokens of each sample that each expert of each mixture reads: [n, experts], int64.

    Counted at the experts themselves, sample by sample, so that any rule of choosing will do.
    """
    readers = [names[0] for m in found for names in m.experts]
    counts = torch.zeros(len(data), len(readers), dtype=torch.int64)

    def observer(i: int, j: int) -> Observer:
        def observe(x: Tensor) -> None:
            counts[i, j] += x[..., 0].numel()

        return observe

    modes = {m: m.training for m in task.model.modules()}
    try:
        task.model.eval()
        for i, batch in enumerate(data.batches(1)):
            hooks = {(n, "in"): [observer(i, j)] for j, n in enumerate(readers)}
            with observed(task.model, hooks), torch.no_grad():
                task.forward(task.model, batch)
    finally:
        for module, training in modes.items():
            module.training = training
    return counts


def _rows(graph: Graph) -> dict[str, dict[int, list[str]]]:
    """Rows of numbered modules, by name -> number -> the linears in it; in order of numbers."""
    found: dict[str, dict[int, list[str]]] = {}
    ran = [x.module for x in graph.layers if x.op == "linear"]
    for name in [*ran, *(n for n, kind, _ in graph.unknown if kind == "Linear")]:
        for row, number in _places(name):
            found.setdefault(row, {}).setdefault(number, []).append(name)
    return {row: dict(sorted(experts.items())) for row, experts in found.items()}


def _places(name: str) -> Iterator[tuple[str, int]]:
    """Rows that a module lies in, and where: "a.3.b" lies in "a" at 3."""
    parts = name.split(".")
    for i, part in enumerate(parts):
        if part.isdigit():
            yield ".".join(parts[:i]), int(part)
