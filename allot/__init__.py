"""allot: one budget, every axis. Makes trained networks small and fast, and proves what was lost.

import allot
done = allot.compress(task, budgets=["size=12%"], max_drop=1.0, out="runs/mine")
outputs = allot.load("runs/mine").run({"input": x})
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from torch import nn

from allot.artefact import Artefact as Artefact
from allot.artefact import open_artefact
from allot.bank import Bank as Bank
from allot.calibrate import calibrate as calibrate
from allot.certify import Statement as Statement
from allot.certify import fixed_sequence as fixed_sequence
from allot.certify import state as state
from allot.certify import state_agreement as state_agreement
from allot.deploy import deploy as deploy
from allot.errors import AllotError as AllotError
from allot.errors import InputError as InputError
from allot.errors import JobError as JobError
from allot.errors import NotCertified as NotCertified
from allot.flow import Axis as Axis
from allot.flow import Outcome as Outcome
from allot.flow import compress as _compress
from allot.front import Front as Front
from allot.front import Measured as Measured
from allot.onnx_graph import to_onnx as to_onnx
from allot.option import Option as Option
from allot.options import precision as precision
from allot.options import width as width
from allot.part import Part as Part
from allot.plan import Plan as Plan
from allot.recipes import preparing as _preparing
from allot.reopen import network as _network
from allot.reopen import reopen as _reopen
from allot.rewrites.rewrite import Rewrite
from allot.runtimes import Ideal as Ideal
from allot.runtimes import OnnxRuntime as OnnxRuntime
from allot.runtimes import OpenVino as OpenVino
from allot.samples import Samples
from allot.search import EFFORT
from allot.search import Effort as Effort
from allot.setup import read_job as _read_job
from allot.site import Graph as Graph
from allot.space import Space as Space
from allot.stages import Report as Report
from allot.stages import silent
from allot.table import Table as Table
from allot.target import Target as Target
from allot.target import Workload as Workload
from allot.task import Data as Data
from allot.task import Task as Task
from allot.task import split as split
from allot.trace import trace as trace

AXES: Mapping[str, Axis] = MappingProxyType({"precision": precision.space, "width": width.space})


load = open_artefact


def compress(
    task: Task,
    *,
    budgets: Sequence[str] = (),
    max_drop: float = 1.0,
    axes: Mapping[str, Axis] = AXES,
    target: Target = OpenVino(),
    workload: Workload = Workload(),
    out: str | Path = "",
    seed: int = 0,
    pins: Mapping[str, str] | None = None,
    excludes: Sequence[str] = (),
    checked_in: Sequence[Target] = (OnnxRuntime(),),
    originals: Mapping[str, Sequence[Rewrite]] | None = None,
    calibration: Samples | None = None,
    effort: Effort = EFFORT,
    evaluations: float | None = None,
    resume: bool = False,
    time_limit: float | None = None,
    workers: str = "",
    source: str = "",
    report: Report = silent,
    tell: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """The whole job with the usual axes, target and search; see `allot.flow.compress`.

    out: the folder to write, runs/NAME of the task where none is given.
    """
    return _compress(
        task,
        budgets=budgets,
        max_drop=max_drop,
        axes=axes,
        target=target,
        workload=workload,
        out=out or Path("runs") / task.name,
        seed=seed,
        pins=pins,
        excludes=excludes,
        checked_in=checked_in,
        originals=originals,
        calibration=calibration,
        effort=effort,
        evaluations=evaluations,
        resume=resume,
        time_limit=time_limit,
        workers=workers,
        source=source,
        report=report,
        tell=tell,
    )


def network(folder: str | Path, task: Task, *, axes: Mapping[str, Axis] = AXES) -> nn.Module:
    """The compressed network of a run as a trainable PyTorch module, built again from its plan.

    task: the run's own, for the weights and the calibration data that the plan was made with.
    Raises PlanError for another network or other weights.
    """
    artefact = load(folder)
    run = _reopen(
        Path(folder), task, axes=axes, target=artefact.target(),
        prepare=_preparing(_read_job(Path(folder)).prepare),
    )  # fmt: skip
    return _network(run, artefact)
