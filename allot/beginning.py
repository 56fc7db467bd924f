"""Beginning: what stands before the first measurement: sites, options, statistics, the bank."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from allot import setup
from allot.bank import Bank
from allot.calibrate import calibrate, needed
from allot.clock import Clock
from allot.errors import InputError
from allot.in_process import InProcess
from allot.job import Job, Struck, part_name
from allot.measure import Meter
from allot.memo import Memo
from allot.option import Statistic
from allot.options.width import removals
from allot.overlays import FOLDER as OVERLAYS
from allot.overlays import Overlays
from allot.recover import STEADY
from allot.rewrites.rewrite import Rewrite, rewritten
from allot.run import Run
from allot.site import Graph
from allot.space import Space
from allot.stages import Stages
from allot.target import Target
from allot.task import Task
from allot.trace import trace

# builds the part of a space that one axis adds
Axis = Callable[..., Space]
# another task for the search, such as one whose calibration data are made from the network alone
Prepare = Callable[[Task, Graph], Task]
# raises InputError for a space in which what is asked for cannot be found
Admit = Callable[[Space], None]


@dataclass(frozen=True, kw_only=True, eq=False)
class Asked:
    """What a job starts from, whatever rewrites it then goes through.

    task, graph: the user's network and its trace.  prepare: changes the task before anything is
    calibrated.  admit: looks at the space before anything is done in it.  struck: options that
    never pay.
    """

    task: Task
    graph: Graph
    axes: Mapping[str, Axis]
    target: Target
    pins: Mapping[str, str]
    excludes: Sequence[str]
    prepare: Prepare | None = None
    admit: Admit | None = None
    struck: tuple[Struck, ...] = ()


@dataclass(frozen=True, kw_only=True, eq=False)
class Begun:
    """A network after its rewrites, what may be changed in it, and what that needs to know."""

    task: Task
    space: Space
    statistics: tuple[Statistic, ...]


def begun(asked: Asked, rewrites: Sequence[Rewrite]) -> Begun:
    """Rewritten, traced, its space built; nothing is calibrated yet.

    Raises ModelError where a rewrite finds nothing to change or changes the output, InputError
    where nothing is left to choose or an option does not fit its site.
    """
    task, graph = rewritten(asked.task, rewrites), asked.graph
    if rewrites:
        graph = trace(task.model, task.forward, task.example())
    task = task if asked.prepare is None else asked.prepare(task, graph)
    space = setup.space(
        graph, asked.axes, target=asked.target, pins=asked.pins, excludes=asked.excludes,
        struck=asked.struck,
    )  # fmt: skip
    if asked.admit is not None:
        asked.admit(space)
    return Begun(task=task, space=space, statistics=needed(space))


def prepared(task: Task, graph: Graph, *, job: Job, prepare: Prepare | None) -> Task:
    """The task of a finished job, its data made as they were; raises InputError for another way."""
    if not job.prepare:
        return task
    if prepare is None or part_name(prepare) != job.prepare:
        given = "nothing" if prepare is None else part_name(prepare)
        raise InputError(
            f"the job was calibrated on data that {job.prepare} made, {given} was given; give that "
            "function as prepare="
        )
    return prepare(task, graph)


def banked(start: Begun, *, progress: Callable[[float], None] = lambda share: None) -> Bank:
    """The bank of a beginning, its statistics taken from one sweep over the calibration data."""
    task, graph = start.task, start.space.graph
    stats = calibrate(task, task.model, start.statistics, progress=progress)
    stats |= removals(task.model, graph, stats)
    return Bank(task.model, graph=graph, stats=stats)


def run_of(
    asked: Asked,
    start: Begun,
    *,
    job: Job,
    folder: Path,
    memo: Memo,
    stages: Stages,
    frozen: bool = False,
    tell: Callable[[str], None] = lambda text: None,
) -> Run:
    """The run of a job, calibrated, with all that measures its plans.

    frozen: nothing is written into the folder.  tell: what is said of files there that cannot be
    used.
    """
    task, space = start.task, start.space
    with stages.stage("calibrate") as progress:
        bank = banked(start, progress=progress)
        overlays = Overlays(folder / OVERLAYS, bank, task.calibrate, frozen=frozen, tell=tell)
        meter = Meter(task, bank, task.search, memo=memo, key="search", overlays=overlays)
        evaluator = InProcess(
            space=space, task=task, bank=bank, data=task.search, recovery=STEADY, memo=memo,
            key="search",
        )  # fmt: skip
    before = (asked.task, asked.graph) if job.rewrites else None
    clock = Clock(
        task, bank, target=asked.target, workload=job.workload, memo=memo, reference=before
    )
    return Run(
        task=task, job=job, folder=folder, target=asked.target, workload=job.workload,
        stages=stages, bank=bank, space=space, meter=meter, evaluator=evaluator, memo=memo,
        clock=clock, strong=setup.strong(job), axes=dict(asked.axes),
        reference=asked.graph if job.rewrites else None,
    )  # fmt: skip
