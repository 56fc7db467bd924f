"""Reopen: a finished job's network and encodings, so that its plans are built without searching."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from allot import document, ledger, setup
from allot import front as fronts
from allot.artefact import SUMMARY, Artefact, add_documents
from allot.beginning import Asked, Begun, Prepare, prepared, run_of
from allot.calibrate import needed
from allot.certify import Statement, state, state_agreement
from allot.certify import load as load_statement
from allot.clock import predictions
from allot.deliver import Delivery, build, deliver
from allot.deploy import deploy
from allot.errors import DataError, InputError, NotCertified, PlanError
from allot.faults import EXAMPLES, Fault, fault
from allot.files import read_json, write_json
from allot.flow import Axis, rebuild
from allot.front import Front
from allot.ledger import Use, sample_digests
from allot.memo import Memo
from allot.overlays import FOLDER
from allot.plan import Plan, weights_digest
from allot.rewrites.rewrite import rewritten
from allot.run import Run
from allot.settle import settled_
from allot.stages import Report, Stages, silent
from allot.sweep import outputs
from allot.target import Target
from allot.task import Data, Inputs, Task
from allot.trace import trace
from allot.verify import Parity, parity

_BATCH = 250
_KEPT = ("harm.json", "latency.json")


def reopen(
    folder: Path,
    task: Task,
    *,
    axes: Mapping[str, Axis],
    target: Target,
    prepare: Prepare | None = None,
    report: Report = silent,
    tell: Callable[[str], None] = lambda text: None,
) -> Run:
    """The run of a finished job, calibrated again; nothing is searched or written.

    prepare: what made the job's data, where something did.  Its task has the search samples in
    the place of the certify samples: those prove something once, and were used.  What recovery made
    of its plans is read where it is stored.  Raises InputError for a folder without a job and for
    another `prepare`, PlanError for another network or other weights than the job's.
    """
    job = setup.read_job(folder)
    task = replace(task, certify=task.search)
    task = task if job.calibration is None else job.calibration.of(task)
    stages = Stages(report)
    with stages.stage("trace"):
        asked = Asked(
            task=task, graph=trace(task.model, task.forward, task.example()), axes=axes,
            target=target, pins=dict(job.pins), excludes=job.excludes, struck=job.struck,
        )  # fmt: skip
        task = rewritten(task, setup.rewrites(job))
        space = rebuild(task, job, axes=axes, target=target)
        task = prepared(task, space.graph, job=job, prepare=prepare)
    start = Begun(task=task, space=space, statistics=needed(space))
    run = run_of(
        asked, start, job=job, folder=folder, memo=Memo(), stages=stages, frozen=True, tell=tell
    )
    if (folder / SUMMARY).exists():
        run.tried = read_json(folder / SUMMARY).get("rewrites", {})
    return run


def network(run: Run, artefact: Artefact) -> nn.Module:
    """The compressed network as a module of its own, in train mode, for fine-tuning.

    Weights stay on their grids: gradients go straight through the rounding.  Raises PlanError for
    an artefact of another network.
    """
    planned = settled_(run.bank.copy(_standins(run, artefact.plan)), run.space.graph)
    return planned.requires_grad_(True).train()


def _standins(run: Run, plan: Plan) -> dict[str, nn.Module]:
    """Stand-ins of a plan after its recovery.

    Raises PlanError for another network's, and where what is stored is not what the plan names.
    """
    plan.check(graph=run.job.graph, weights=run.job.weights)
    recovery = run.recovery(plan.recovery)
    found = run.meter.overlay(plan.options, recovery)
    if plan.overlays and found and found not in plan.overlays:
        raise PlanError(
            f"the plan names {', '.join(plan.overlays)} as what recovery made, the folder "
            f"{run.folder} holds {found}; take the folder's {FOLDER} away to have it made again"
        )
    return run.meter.standins(plan.options, recovery)


def point_of(folder: Path, index: int) -> tuple[Front, Statement | None]:
    """The front of a run and what its one fixed sequence said of a point (None: not reached).

    Raises InputError where there is no such point.
    """
    data = read_json(folder / "front.json")
    front = fronts.load(data)
    if not 0 <= index < len(front.points):
        last = len(front.points) - 1
        raise InputError(f"{folder} has no point {index}; its points are 0 to {last}")
    said = (data.get("statements") or {}).get(str(index))
    return front, load_statement(said) if said else None


def take_point(run: Run, index: int, *, out: Path, uncertified: bool = False) -> Mapping[str, Any]:
    """The artefact of another point of a run's front in a folder of its own; its summary.

    Metric and divergence in it are of the search samples.  Its certificate is what the job's
    fixed sequence said of the point.  Raises NotCertified for a point it did not certify unless
    `uncertified`, which the artefact then says of itself; InputError for a folder in use.
    """
    front, statement = point_of(run.folder, index)
    proven = statement is not None and statement.certified
    if not proven and not uncertified:
        raise NotCertified(_not_certified(run, index, statement))
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError(f"{out} is in use; give another --out")
    source = read_json(run.folder / SUMMARY)
    run_here = replace(run, folder=out, originals=front.original)
    m = front.points[index]
    built = build(run_here, m)
    session = run.target.open(built.onnx, workload=run.workload)
    found = predictions(session, run.task.search.inputs, batch=run.workload.batch)
    out.mkdir(parents=True, exist_ok=True)
    if run.meter.overlays is not None:
        recovery = run.recovery(m.recovery)
        run.meter.overlays.copy(run.space.options(m.point), recovery, out / FOLDER)
    write_json(out / setup.JOB, run.job.dump())
    ledger.write(ledger.read(run.folder), out)
    summary = deliver(
        Delivery(
            run=run_here,
            front=front,
            preferred=m,
            limits={k: v["limit"] for k, v in source["budgets"].items()},
            statements={} if statement is None else {index: statement},
            chosen=m,
            built=built,
            run_outputs=found,
        )
    )
    return _marked(run.folder, out, summary, proven=proven)


def _not_certified(run: Run, index: int, statement: Statement | None) -> str:
    why = "the fixed sequence had stopped before it"
    if statement is not None:
        why = f"its bound is {statement.bound:.2f} points where {statement.max_drop:g} are allowed"
    return (
        f"point {index} of {run.folder} is not certified: {why}; take it with --uncertified, or "
        "certify it on fresh data"
    )


def _marked(
    source: Path, out: Path, summary: Mapping[str, Any], *, proven: bool
) -> Mapping[str, Any]:
    """The artefact with the job's own front and harm, and with what a reader must know of it."""
    notes = [
        "a point taken after the job: metric and divergence are of the search samples, which "
        "the search has seen; the certify samples were used once, by the job"
    ]
    if not proven:
        notes.insert(0, "NOT CERTIFIED: nothing is proven of what this network loses")
    marked = {**summary, "certified": proven, "notes": [*notes, *summary["notes"]]}
    kept = {n: read_json(source / n) for n in _KEPT if (source / n).exists()}
    front = {"front.json": read_json(source / "front.json")}
    add_documents(out, {**kept, **front, SUMMARY: marked})
    document.add_report(out)
    return marked


def check_again(run: Run, artefact: Artefact, *, inputs: Inputs | None = None) -> Parity:
    """Outputs of an artefact in its runtime against the plan simulated anew.

    inputs: calibration inputs where none are given.  Raises PlanError for an artefact of another
    network.
    """
    standins = _standins(run, artefact.plan)
    data = run.task.calibrate if inputs is None else Data(inputs=inputs)
    planned = settled_(run.bank.copy(standins), run.space.graph)
    simulated = outputs(run.task, planned, data, batch=_BATCH)
    session = artefact.session(run.target, run.workload)
    found = predictions(session, data.inputs, batch=run.workload.batch)
    within = run.target.tolerance
    return parity(simulated, found, divergence=run.task.divergence, within=within)


def fault_again(run: Run, artefact: Artefact) -> Fault:
    """Where an artefact begins to differ from its plan in its runtime, and what that looks like."""
    planned = settled_(run.bank.copy(_standins(run, artefact.plan)), run.space.graph)
    return fault(
        artefact.onnx(), deploy(planned, run.space.graph), run.task.example(EXAMPLES),
        target=run.target, workload=run.workload,
    )  # fmt: skip


def certify_again(
    artefact: Artefact, task: Task, data: Data, *, max_drop: float, name: str
) -> Statement:
    """A statement on an artefact from fresh samples, which are written into its ledger first.

    Without labels it is about agreement with the original.  name: of what the samples are.
    Raises DataError for samples that any step has seen or that occur twice, PlanError for a task
    with other weights.
    """
    plan = artefact.plan
    plan.check(graph=plan.graph, weights=weights_digest(task.model))
    digests = sample_digests(data.inputs)
    if len(set(digests)) < len(digests):
        twice = len(digests) - len(set(digests))
        raise DataError(f"{twice} samples occur more than once; a proof counts each once")
    book = ledger.read(artefact.folder)
    book.check_fresh(digests, by=plan.digest)
    ledger.write(
        book.record(Use(purpose="certify", by=plan.digest, digests=digests)), artefact.folder
    )
    original = outputs(task, copy.deepcopy(task.model).eval(), data, batch=_BATCH)
    workload = artefact.summary["workload"]
    found = predictions(artefact.session(), data.inputs, batch=int(workload["batch"]))
    if data.labels is None:
        return state_agreement(original.argmax(1), found.argmax(1), max_drop=max_drop, data=name)
    return state(
        task.score(original, data.labels),
        task.score(found, data.labels),
        max_drop=max_drop,
        metric=task.metric,
        data=name,
    )
