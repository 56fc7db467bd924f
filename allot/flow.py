"""Flow: the whole job on one page, each stage resumable.

check -> trace -> space -> calibrate -> bank -> latency -> harm -> search -> finalists
      -> certify -> export, verify -> artefact, report
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from allot import bill, hiring, memory, packed, setup
from allot import job as jobs
from allot.bank import Bank
from allot.calibrate import calibrate, needed
from allot.certify import Statement
from allot.check import check_forward
from allot.clock import Clock
from allot.deliver import Delivery, deliver, proven, refused
from allot.errors import BudgetError, NotCertified
from allot.explore import Method, Searcher, Signal, explore
from allot.finalists import finalists
from allot.front import Front, Measured
from allot.harm.fisher import fisher
from allot.in_process import InProcess
from allot.measure import Meter
from allot.options.width import removals
from allot.plan import weights_digest
from allot.recover import STEADY, STRONG, Recovery
from allot.rewrites.rewrite import Rewrite, rewritten
from allot.run import Run
from allot.search import EFFORT, Effort
from allot.site import Graph
from allot.space import Space
from allot.stages import Report, Stages, silent
from allot.target import Target, Workload
from allot.task import Task
from allot.trace import trace

WORKLOAD = Workload()

# builds the part of a space that one axis adds
Axis = Callable[..., Space]
# another task for the search, such as one whose calibration data are made from the network alone
Prepare = Callable[[Task, Graph], Task]


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What a job came to. chosen: index on the front, None where no plan was certified."""

    folder: Path
    front: Front
    chosen: int | None
    statement: Statement | None
    summary: Mapping[str, Any]


def compress(
    task: Task,
    *,
    budgets: Sequence[str] = (),
    max_drop: float = 1.0,
    axes: Mapping[str, Axis],
    target: Target,
    workload: Workload = WORKLOAD,
    out: str | Path,
    seed: int = 0,
    pins: Mapping[str, str] | None = None,
    excludes: Sequence[str] = (),
    checked_in: Sequence[Target] = (),
    signals: Sequence[Signal] = (fisher,),
    searcher: Searcher | None = None,
    evaluations: float | None = None,
    prepare: Prepare | None = None,
    rewrites: Sequence[Rewrite] = (),
    strong: Recovery = STRONG,
    effort: Effort = EFFORT,
    resume: bool = False,
    time_limit: float | None = None,
    workers: str = "",
    source: str = "",
    report: Report = silent,
    tell: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """A smaller, faster network within the budgets, exported, verified and with its loss proven.

    budgets: like "size=12%".  max_drop: points of the metric that the certificate must bound at
    95 %.  axes: name -> builder of that axis.  checked_in: further runtimes to run and time the
    file in.  signals: estimates of the harm of every option, the main one first (see
    `allot.harm`).  searcher: None for the closed loop of `allot.search`.  evaluations: forward
    passes over the search data that signals and search may take.  prepare: changes the task
    before anything is calibrated.  rewrites: function-preserving changes that the network goes
    through first.  strong: the recovery of finalists.  workers: who measures plans, "" for this
    process (see `allot.workers.connect`); they make the task again from its source.  source: how
    the task was named, for them and for later commands.
    report(stage, share) and tell(sentence) are called as the job goes.

    Raises InputError and its kinds before long work starts, NotCertified when no plan within the
    budgets is proven (front and report are written), ParityError when the file computes
    something else than what was measured.
    """
    asked = jobs.budgets(budgets)
    most = math.inf if evaluations is None else evaluations
    setup.evaluations(most)
    hiring.check(workers, source=source)
    stages = Stages(report, limit=time_limit)
    # the user's network is left as it is, also where it was handed over in training mode
    task = replace(task, model=copy.deepcopy(task.model).eval().requires_grad_(False))
    with stages.stage("trace"):
        setup.check(task, target=target, max_drop=max_drop, asked=asked)
        reference = trace(task.model, task.forward, task.example()) if rewrites else None
        task = rewritten(task, rewrites)
        graph = trace(task.model, task.forward, task.example())
        check_forward(task)
        task = task if prepare is None else prepare(task, graph)
        space = setup.space(graph, axes, target=target, pins=pins or {}, excludes=excludes)
        statistics = needed(space)  # an option that does not fit its site ends the job here
    for sentence in setup.remarks(task, graph, max_drop):
        tell(sentence)
    job = jobs.Job(
        task=source or task.name,
        graph=graph.digest,
        weights=weights_digest(task.model),
        budgets=tuple(budgets),
        max_drop=max_drop,
        axes=tuple(axes),
        target=target.name,
        workload=workload,
        seed=seed,
        pins=tuple(sorted((pins or {}).items())),
        excludes=tuple(excludes),
        method=jobs.method(prepare, *signals, searcher),
        rewrites=tuple(rewrites),
        strong=strong,
    )
    folder, memo = setup.folder(Path(out), job, task, resume=resume)
    with stages.stage("calibrate") as progress:
        stats = calibrate(task, task.model, statistics, progress=progress)
        stats |= removals(task.model, graph, stats)
        bank = Bank(task.model, graph=graph, stats=stats)
        meter = Meter(task, bank, task.search, memo=memo, key="search")
        evaluator = InProcess(
            space=space, task=task, bank=bank, data=task.search, recovery=STEADY, memo=memo,
            key="search",
        )  # fmt: skip
    run = Run(
        task=task, job=job, folder=folder, target=target, workload=workload, stages=stages,
        bank=bank, space=space, meter=meter, evaluator=evaluator, memo=memo,
        checked_in=tuple(checked_in),
        clock=Clock(task, bank, target=target, workload=workload, memo=memo),
        axes=dict(axes), strong=strong, reference=reference,
    )  # fmt: skip
    _bill(run, {b.bill for b in asked})
    try:
        limits = setup.limits(space, asked, bills=run.bills, originals=run.originals)
    except BudgetError:
        if not resume:
            setup.abandon(folder)
        raise
    method = Method(signals=signals, searcher=searcher, effort=effort, evaluations=most)
    with hiring.hired(run, evaluator, workers=workers, source=source):
        found = explore(run, method, limits=limits)
    run.single = found.harm[0]
    with stages.stage("finalists") as progress:
        front, preferred = finalists(
            found.trials, meter, run.clock, near=found.near, limits=limits, strong=strong,
            progress=progress, tell=tell,
        )  # fmt: skip
    return _conclude(run, front, preferred, limits)


def _bill(run: Run, asked: set[str]) -> None:
    """Tables of every bill the target states, and the same bills of the float original.

    Of memory only where it is asked for: it would let plans stay on the front that nobody wants.
    """
    space, graph = run.space, run.space.graph
    header = packed.header_bytes(graph)
    bills = {
        "size": bill.size(space, header=header),
        "bitops": bill.bitops(space, run.target),
    }
    before = run.reference or graph
    originals = {
        "size": float(before.folded_bytes),
        "bitops": float(sum(x.macs for x in before.layers)) * 32 * 32,
    }
    if "memory" in asked:
        bills["memory"] = memory.memory(space, run.target, workload=run.workload, header=header)
        originals["memory"] = memory.original(before, workload=run.workload)
    if "latency" in run.target.bills:
        with run.stages.stage("latency") as progress:
            seed = run.job.seed
            bills["latency"], run.fit, run.latency = run.clock.table(
                space, seed=seed, progress=progress
            )
            originals["latency"] = run.clock.original_s()
    run.bills, run.originals = bills, originals


def _conclude(
    run: Run, front: Front, preferred: Measured | None, limits: Mapping[str, float]
) -> Outcome:
    """Certifies the front, exports and checks the chosen plan, writes the folder."""
    delivery = Delivery(run=run, front=front, preferred=preferred, limits=dict(limits))
    with run.stages.stage("certify") as progress:
        delivery = proven(delivery, progress=progress)
    if delivery.chosen is None:
        refused(delivery)
        raise NotCertified(delivery.verdict())
    with run.stages.stage("export"):
        summary = deliver(delivery)
    chosen = delivery.front.points.index(delivery.chosen)
    return Outcome(
        folder=run.folder,
        front=delivery.front,
        chosen=chosen,
        statement=delivery.statements[chosen],
        summary=summary,
    )


def rebuild(task: Task, job: jobs.Job, *, axes: Mapping[str, Axis], target: Target) -> Space:
    """The space of a finished job, to read its points again; raises PlanError for another task."""
    graph = trace(task.model, task.forward, task.example())
    setup.same(job, graph=graph.digest, weights=weights_digest(task.model))
    return setup.space(graph, axes, target=target, pins=dict(job.pins), excludes=job.excludes)
