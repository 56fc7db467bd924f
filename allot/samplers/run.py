"""Run: what the stages of one job of a sampler hand to each other."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from allot.bank import Bank
from allot.front import Measured
from allot.job import Job
from allot.memo import Memo
from allot.plan import Plan
from allot.samplers.rolled import Rolled
from allot.samplers.task import Sampled
from allot.space import Space
from allot.stages import Stages
from allot.table import Table
from allot.target import Target
from allot.task import Task


@dataclass(kw_only=True, eq=False)
class SamplerRun:
    """One job of a sampler under way."""

    task: Task
    family: Sampled
    job: Job
    folder: Path
    target: Target
    stages: Stages
    space: Space
    bank: Bank
    memo: Memo
    evaluator: Rolled
    bills: Mapping[str, Table]
    originals: Mapping[str, float]
    limits: Mapping[str, float]

    def plan(self, m: Measured) -> Plan:
        """A measured plan as it is written down."""
        options = self.space.options(m.point)
        return Plan(graph=self.job.graph, weights=self.job.weights, options=options)

    def samples(self, m: Measured | None) -> Tensor:
        """What the original (None) or a plan makes of the certify noises, [n, ...]."""
        point = self.space.original if m is None else m.point
        return self.evaluator.samples_of(point, self.task.certify)
