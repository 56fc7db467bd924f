"""Run: what the stages of one job hand to each other."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from allot.bank import Bank
from allot.clock import Clock
from allot.evaluate import Evaluator
from allot.job import Job
from allot.latency_fit import Fit
from allot.measure import Meter
from allot.memo import Memo
from allot.recover import BY_NAME, STRONG, Recovery
from allot.site import Graph
from allot.space import Space
from allot.stages import Stages
from allot.table import Table
from allot.target import Target, Workload
from allot.task import Task


@dataclass(kw_only=True, eq=False)
class Run:
    """One job under way; the fields with defaults are filled in as stages end.

    strong: the recovery of finalists.  reference: of the network before any rewrite, whose bills
    are the original's; None where that is the space's.  tried: the rewritten originals that were
    compared, as JSON data.
    """

    task: Task
    job: Job
    folder: Path
    target: Target
    workload: Workload
    stages: Stages
    bank: Bank
    space: Space
    meter: Meter
    evaluator: Evaluator
    memo: Memo
    clock: Clock
    strong: Recovery = STRONG
    checked_in: tuple[Target, ...] = ()
    reference: Graph | None = None
    tried: Mapping[str, Any] = field(default_factory=dict)
    axes: Mapping[str, Callable[..., Space]] = field(default_factory=dict)
    bills: Mapping[str, Table] = field(default_factory=dict)
    originals: Mapping[str, float] = field(default_factory=dict)
    single: Table | None = None
    fit: Fit | None = None
    latency: Mapping[str, Any] = field(default_factory=dict)

    def recovery(self, name: str) -> Recovery:
        """The recovery that a plan of this job names."""
        return self.strong if name == self.strong.name else BY_NAME[name]
