"""Samples: the calibration samples that a job is asked to take, of all that its task has."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from allot.errors import InputError
from allot.job import Taken
from allot.mixtures import balanced_order
from allot.selection import cover, features, spread
from allot.site import Graph
from allot.task import Task

WAYS = ("first", "dense-diverse", "cover", "balanced")


@dataclass(frozen=True, kw_only=True)
class Samples:
    """How many calibration samples, and which.

    by: "first", as they stand; "dense-diverse" (`spread`) and "cover", by what the network puts
    out for them; "balanced" over the experts of a mixture.
    """

    count: int
    by: str = "first"

    def __post_init__(self) -> None:
        if self.by not in WAYS:
            raise InputError(f"--select {self.by}: there is no such way; there are {said()}")
        if self.count < 1:
            raise InputError(f"--calibration-samples {self.count}: give 1 or more")


def said() -> str:
    """The ways for people."""
    return ", ".join(WAYS)


def take(task: Task, graph: Graph, samples: Samples) -> Taken:
    """The samples chosen, in the order of choice: recovery looks at the first of them.

    Raises InputError for more than there are, ModelError where experts are to be balanced in a
    network without any.
    """
    n = len(task.calibrate)
    if samples.count > n:
        raise InputError(
            f"--calibration-samples {samples.count}: the task has {n}; give at most that"
        )
    index = _index(task, graph, samples)[: samples.count]
    return Taken(by=samples.by, index=tuple(index.tolist()))


def _index(task: Task, graph: Graph, samples: Samples) -> Tensor:
    if samples.by == "first":
        return torch.arange(samples.count)
    if samples.by == "balanced":
        return balanced_order(task, graph, samples=samples.count)
    choose = spread if samples.by == "dense-diverse" else cover
    return choose(features(task, task.calibrate), samples.count)
