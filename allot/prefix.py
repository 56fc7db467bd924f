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
    network, and of its containers, however deep.  Never recorded, so run again: what puts out its
    first input, a view of it, or changes it in place (others would miss the change), and what
    puts out more than one tensor.  `most_bytes` bounds what is kept: stages beyond it (those
    recorded first win) are run again.
    """

    def __init__(
        self, task: Task, bank: Bank, data: Data, *, batch: int, most_bytes: int = 2**30
    ) -> None:
        self.bank, self.batch, self.data = bank, batch, data
        self._recorded: dict[str, list[Tensor]] = {}
        self._budget = most_bytes
        hooks: dict[tuple[str, str], list[Observer]] = {}
        for name in stages(bank.skeleton, bank.graph):
            before, after = self._recorder(name)
            hooks |= {(name, "in"): [before], (name, "out"): [after]}
        with observed(bank.skeleton, hooks), torch.no_grad():
            self.original = torch.cat([task.forward(bank.skeleton, b) for b in data.batches(batch)])
        whole = len(list(data.batches(batch)))
        self._recorded = {k: v for k, v in self._recorded.items() if len(v) == whole}

    def _recorder(self, name: str) -> tuple[Observer, Observer]:
        """Observers before and after a stage."""
        entered: list[tuple[Tensor, int]] = []

        def before(x: object) -> None:
            entered[:] = [(x, x._version)] if isinstance(x, Tensor) else []

        def after(y: object) -> None:
            if not isinstance(y, Tensor) or not all(_untouched(x, v, y) for x, v in entered):
                return
            size = y.element_size() * y.nelement()
            if size <= self._budget:
                self._budget -= size
                self._recorded.setdefault(name, []).append(y.clone())

        return before, after

    def outputs(self, task: Task, standins: Mapping[str, nn.Module]) -> Tensor:
        """Outputs of the network with stand-ins in place for all data: [n, ...]."""
        replays = self.replays(set(standins))
        with self.bank.trial({**standins, **replays}) as model, torch.no_grad():
            return torch.cat([task.forward(model, b) for b in self.data.batches(self.batch)])

    def replays(self, touched: Iterable[str]) -> dict[str, nn.Module]:
        """Replays for the recorded stages that end before the first touched module starts."""
        order = self.bank.graph.order
        first = min((order.index((n, "start")) for n in touched), default=0)
        # a stage that holds the first touched module has started but not ended
        ended = [n for n, event in order[:first] if event == "end" and n in self._recorded]
        return {n: Replay(self._recorded[n]) for n in ended}


def _untouched(x: Tensor, version: int, y: Tensor) -> bool:
    """Whether input x is as it was at that version, and output y has a storage of its own."""
    return (
        x._version == version and x.untyped_storage().data_ptr() != y.untyped_storage().data_ptr()
    )


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
