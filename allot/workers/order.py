"""Order: all that a worker must be told to measure plans as the coordinator would, as JSON data."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from allot import bank_file, part
from allot.bank import Bank
from allot.errors import InputError, PlanError
from allot.in_process import InProcess, Span, Values
from allot.job import Taken
from allot.memo import Memo
from allot.recover import Recovery
from allot.rewrites.rewrite import rewritten
from allot.space import Choice, Point, Space
from allot.task import Task
from allot.task_file import find
from allot.trace import trace


@dataclass(frozen=True, kw_only=True)
class Factory:
    """How a worker makes the task: a name as on the command line, or a function of a module.

    source: "digits-resnet", "FILE.py:FUNCTION" (the path must hold where the worker runs), or
    "package.module:function", which is imported and called with the arguments (JSON data).
    samples: places of the calibration samples that it takes, None for all.  rewrites: what its
    network then goes through, as JSON data.
    """

    source: str
    seed: int = 0
    arguments: tuple[Any, ...] = ()
    samples: tuple[int, ...] | None = None
    rewrites: tuple[Any, ...] = ()

    def task(self) -> Task:
        """The task; raises InputError where there is none."""
        task = self._original()
        if self.samples is not None:
            task = Taken(by="", index=self.samples).of(task)
        return rewritten(task, [part.load(r) for r in self.rewrites])

    def _original(self) -> Task:
        module, colon, function = self.source.rpartition(":")
        if not colon or module.endswith(".py"):
            return find(self.source, seed=self.seed)
        made = getattr(importlib.import_module(module), function, None)
        if made is None:
            raise InputError(f"{module} has no function {function!r}")
        task = made(*self.arguments)
        if not isinstance(task, Task):
            raise InputError(f"{self.source} returned {type(task).__name__}, not an allot.Task")
        return task


@dataclass(frozen=True, kw_only=True)
class Order:
    """factory: of the task.  folder: of the bank, where the worker can read it.  choices: site,
    tied sites and options of each.  recovery: its settings.  samples: how many of the task's search
    samples, from the first, are measured on; in batches of `batch`.  threads: of torch, the same
    for every worker, since sums depend on it in their last digits.
    """

    factory: Factory
    folder: str
    graph: str
    choices: tuple[Any, ...]
    recovery: dict[str, Any]
    samples: int
    batch: int
    threads: int = 1

    def dump(self) -> dict[str, Any]:
        return asdict(self)


def load(data: dict[str, Any]) -> Order:
    """The order that `dump` wrote."""
    factory = data["factory"]
    lists = {k: tuple(v) for k, v in factory.items() if isinstance(v, list | tuple)}
    made = Factory(**{**factory, **lists})
    return Order(**{**data, "factory": made, "choices": tuple(data["choices"])})


def order(
    evaluator: InProcess,
    *,
    factory: Factory,
    recovery: Recovery,
    bank: Bank,
    folder: Path,
    batch: int = 250,
    threads: int = 1,
) -> Order:
    """The order for workers that are to do what the evaluator does; writes the bank to `folder`.

    recovery, bank, batch: the evaluator's.  Its samples must be the first of the task's search
    samples.
    """
    space = evaluator.space
    bank_file.save(bank, space, folder)
    return Order(
        factory=factory,
        folder=str(folder.resolve()),
        graph=space.graph.digest,
        choices=tuple([c.site, list(c.tied), [o.dump() for o in c.options]] for c in space.choices),
        recovery=asdict(recovery),
        samples=evaluator.samples,
        batch=batch,
        threads=threads,
    )


class Worker:
    """What carries an order out: the task made, the bank mapped, plans measured."""

    def __init__(self, given: Order) -> None:
        torch.set_num_threads(given.threads)
        task = given.factory.task()
        graph = trace(task.model, task.forward, task.example())
        if graph.digest != given.graph:
            raise PlanError(f"{given.factory.source} makes another network here than it did there")
        if not Path(given.folder).is_dir():
            raise InputError(
                f"{given.folder} is not to be seen from this machine; give a folder on a disk "
                "that all machines share"
            )
        task.model.eval().requires_grad_(False)
        self._evaluator = InProcess(
            space=Space(graph=graph, choices=tuple(_choice(c) for c in given.choices)),
            task=task,
            bank=bank_file.load(Path(given.folder), task.model, graph),
            data=task.search.subset(slice(0, given.samples)),
            recovery=Recovery(**given.recovery),
            memo=Memo(),
            batch=given.batch,
        )

    def measured(self, points: Sequence[Sequence[int]], span: Span) -> list[Values]:
        """Divergences and scores of each point on some samples."""
        plans: list[Point] = [tuple(p) for p in points]
        found = self._evaluator.measured(plans, span)
        return [found[p] for p in plans]


def _choice(data: Any) -> Choice:
    site, tied, options = data
    return Choice(site=site, tied=tuple(tied), options=tuple(part.load(o) for o in options))
