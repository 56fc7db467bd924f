"""Flow: the whole job on one page, each stage resumable.

check -> trace -> space -> calibrate -> bank -> latency -> harm -> search -> finalists
      -> certify -> export, verify -> artefact, report
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from allot import billed, disk, hiring, setup
from allot import job as jobs
from allot import originals as several
from allot.beginning import Admit, Asked, begun, run_of
from allot.beginning import Axis as Axis
from allot.beginning import Prepare as Prepare
from allot.check import check_forward
from allot.deliver import Delivery, deliver, proven, refused
from allot.errors import BudgetError, NotCertified
from allot.explore import Method, Searcher, Signal, explore
from allot.finalists import finalists
from allot.front import Front, Measured
from allot.harm.fisher import fisher
from allot.kernel_probe import alone, never_paying
from allot.latency import LatencyTable
from allot.memo import Memo
from allot.outcome import Outcome as Outcome
from allot.plan import weights_digest
from allot.recover import STRONG, Recovery
from allot.rewrites.rewrite import Rewrite
from allot.run import Run
from allot.samples import Samples, take
from allot.search import EFFORT, Effort
from allot.space import Space
from allot.stages import Report, Stages, silent
from allot.target import Target, Workload
from allot.task import Task
from allot.trace import trace

WORKLOAD = Workload()


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
    originals: Mapping[str, Sequence[Rewrite]] | None = None,
    calibration: Samples | None = None,
    admit: Admit | None = None,
    times: LatencyTable | None = None,
    keep_slow: bool = False,
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
    95 %.  axes: name -> builder.  checked_in: further runtimes to run and time the file in.
    signals: estimates of the harm of every option, the main one first (see `allot.harm`).
    searcher: None for the closed loop of `allot.search`.  evaluations: forward passes over the
    search data that signals and search may take.  prepare: changes the task before anything is
    calibrated.  rewrites: what the network goes through first.  originals: name -> further
    rewrites, of which the best are taken, or none (see `allot.originals`).  calibration: how many
    calibration samples, and which.  admit: raises InputError for a space that nothing could be done
    in.  times: of layers alone, measured where they are not given, the target can be timed and
    nothing is to be admitted; what never pays by them is struck out (`allot.kernel_probe`), but for
    keep_slow.  strong: the recovery of finalists.  workers: who measures plans, "" for this process
    (`allot.workers.connect`); they make the task again from its source.  source: how the task was
    named, for them and for later commands.  report(stage, share), tell(sentence): as the job goes.

    Raises InputError and its kinds before long work starts, NotCertified when no plan within the
    budgets is proven (front and report are written), ParityError when the file computes
    something else than what was measured.
    """
    if task.family is not None:
        return _of_family(
            task, budgets=budgets, max_drop=max_drop, target=target, out=out, seed=seed,
            evaluations=evaluations, searcher=searcher, resume=resume, time_limit=time_limit,
            source=source, report=report, tell=tell,
        )  # fmt: skip
    asked = jobs.budgets(budgets)
    most = math.inf if evaluations is None else evaluations
    setup.evaluations(most)
    hiring.check(workers, source=source, prepare=prepare)
    out, stages = Path(out), Stages(report, limit=time_limit)
    # the user's network is left as it is, also where it was handed over in training mode
    task = replace(task, model=copy.deepcopy(task.model).eval().requires_grad_(False))
    with stages.stage("trace"):
        setup.check(task, target=target, max_drop=max_drop, asked=asked)
        graph = trace(task.model, task.forward, task.example())
        check_forward(task)
        taken = None if calibration is None else take(task, graph, calibration)
        given = Asked(
            task=task if taken is None else taken.of(task), graph=graph, axes=axes, target=target,
            pins=pins or {}, excludes=excludes, prepare=prepare, admit=admit,
        )  # fmt: skip
        start = begun(given, rewrites)
        setup.free(out, resume=resume)
    if times is None and target.timed and admit is None and not keep_slow:
        with stages.stage("kernels") as progress:
            times = alone(start.space, target, workload, Memo(out / setup.LAYERS), progress)
    if times is not None and not keep_slow:
        own = {"size", *(b.bill for b in asked)}
        struck = never_paying(start.space, target=target, workload=workload, times=times, bills=own)
        given = replace(given, struck=struck)
        start = begun(given, rewrites) if struck else start
    for sentence in setup.remarks(start.task, start.space.graph, max_drop):
        tell(sentence)
    job = jobs.Job(
        task=source or task.name,
        graph=start.space.graph.digest,
        weights=weights_digest(start.task.model),
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
        calibration=taken,
        struck=given.struck,
        prepare="" if prepare is None else jobs.part_name(prepare),
    )
    tried: tuple[several.Tried, ...] = ()
    if originals:
        with stages.stage("originals") as progress:
            tried = several.compared(
                several.Comparison(
                    asked=given, budgets=asked, job=job, memo=Memo(out / setup.ORIGINALS)
                ),
                originals, before=rewrites, progress=progress,
            )  # fmt: skip
        tell(several.sentence(tried))
        start, job = several.on_best(given, job, tried, originals)
    folder, memo = setup.folder(out, job, start.task, resume=resume)
    run = run_of(given, start, job=job, folder=folder, memo=memo, stages=stages, tell=tell)
    run.clock.known = times
    run.checked_in, run.tried = tuple(checked_in), several.document(tried)
    run.evaluator.charge(sum(t.passes for t in tried))
    _bill(run, {b.bill for b in asked})
    try:
        limits = setup.limits(run.space, asked, bills=run.bills, originals=run.originals)
    except BudgetError:
        if not resume:
            setup.abandon(folder)
        raise
    method = Method(signals=signals, searcher=searcher, effort=effort, evaluations=most)
    with hiring.hired(run, workers=workers, source=source):
        found = explore(run, method, limits=limits)
    run.single = found.harm[0]
    with stages.stage("finalists") as progress:
        front, preferred = finalists(
            found.trials, run.meter, run.clock, near=found.near, limits=limits, strong=strong,
            progress=progress, tell=tell,
        )  # fmt: skip
    _forget(run, front)
    return _conclude(run, front, preferred, limits)


def _of_family(task: Task, **settings: Any) -> Outcome:
    """The job of a kind of network that has one of its own."""
    assert task.family is not None
    found = task.family.compress(task, **settings)
    assert isinstance(found, Outcome)
    return found


def _bill(run: Run, asked: set[str]) -> None:
    """Tables of every bill the target states, and the same bills of the float original."""
    bills = billed.tables(run.space, run.target, workload=run.workload, asked=asked)
    before = run.reference or run.space.graph
    originals = billed.originals(before, workload=run.workload, asked=asked, target=run.target)
    if "disk" in asked:
        bills["disk"], originals["disk"] = disk.table(run.space, run.bank), originals["size"]
    if run.target.timed:
        with run.stages.stage("latency") as progress:
            seed = run.job.seed
            bills["latency"], run.fit, run.latency = run.clock.table(
                run.space, seed=seed, progress=progress
            )
            originals["latency"] = run.clock.original_s()
    run.bills, run.originals = bills, originals


def _forget(run: Run, front: Front) -> None:
    """Takes away what recovery made of plans that are not on the front."""
    overlays = run.meter.overlays
    if overlays is not None:
        kept = ((run.space.options(p.point), run.recovery(p.recovery)) for p in front.points)
        overlays.keep(kept)


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
    return setup.space(
        graph, axes, target=target, pins=dict(job.pins), excludes=job.excludes, struck=job.struck
    )
