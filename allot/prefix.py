"""Prefix: what a plan leaves unchanged before its first change is replayed, not run again."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor, nn

from allot.bank import Bank
from allot.site import Graph
from allot.sweep import Observer, observed
from allot.task import Data, Task


class Replay(nn.Module):
    """Stands in for a module and gives its recorded outputs, batch after batch."""

    def __init__(self, recorded: list[Tensor]) -> None:
        nn.Module.__init__(self)
        self.recorded = recorded
        self.at = 0

    def forward(self, *inputs: object) -> Tensor:
        self.at += 1
        # a copy, since what follows may work in place
        return self.recorded[self.at - 1].clone()


class Prefix:
    """Recorded outputs of the original's stages on fixed data; an exact short cut.

    A stage is a module that is called once, and that is no mere container: children of the
    network, and of its containers, however deep.  `most_bytes` bounds what is kept: stages beyond
    it (the latest first recorded win) are run again.
    """

    def __init__(
        self, task: Task, bank: Bank, data: Data, *, batch: int, most_bytes: int = 2**30
    ) -> None:
        self.bank, self.batch, self.data = bank, batch, data
        self._order = [name for name, event in bank.graph.order if event == "start"]
        self._recorded: dict[str, list[Tensor]] = {}
        self._budget = most_bytes
        hooks = {(n, "out"): [self._recorder(n)] for n in stages(bank.skeleton, bank.graph)}
        with observed(bank.skeleton, hooks), torch.no_grad():
            self.original = torch.cat(
                [task.forward(bank.skeleton, b) for b in data.batches(batch)]
            )
        whole = len(list(data.batches(batch)))
        self._recorded = {k: v for k, v in self._recorded.items() if len(v) == whole}

    def _recorder(self, name: str) -> Observer:
        def record(x: Tensor) -> None:
            size = x.element_size() * x.nelement()
            if isinstance(x, Tensor) and size <= self._budget:
                self._budget -= size
                self._recorded.setdefault(name, []).append(x.clone())

        return record

    def outputs(self, task: Task, standins: Mapping[str, nn.Module]) -> Tensor:
        """Outputs of the network with stand-ins in place for all data: [n, ...]."""
        replays = self.replays(set(standins))
        with self.bank.trial({**standins, **replays}) as model, torch.no_grad():
            return torch.cat([task.forward(model, b) for b in self.data.batches(self.batch)])

    def replays(self, touched: Iterable[str]) -> dict[str, nn.Module]:
        """Replays for the recorded stages that end before the first touched module starts."""
        places = [self._order.index(n) for n in touched]
        if not places:
            return {}
        first = min(places)
        early = [n for n in self._order[:first] if n in self._recorded]
        # a stage that holds the first touched module has started but not ended
        held = self._order[first]
        return {n: Replay(self._recorded[n]) for n in early if not held.startswith(f"{n}.")}


def stages(model: nn.Module, graph: Graph) -> tuple[str, ...]:
    """Names of the stages of a network, in execution order."""
    starts = [name for name, event in graph.order if event == "start"]
    found: list[str] = []

    def visit(module: nn.Module, name: str) -> None:
        for child, inner in module.named_children():
            path = f"{name}.{child}" if name else child
            if isinstance(inner, nn.Sequential | nn.ModuleList | nn.ModuleDict):
                visit(inner, path)
            elif starts.count(path) == 1:
                found.append(path)

    visit(model, "")
    return tuple(sorted(found, key=starts.index))


