"""Deliver: certify the front, export and check the chosen plan, write the run's folder."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from allot import document, ledger
from allot.artefact import SUMMARY, WEIGHTS, describe, write_artefact
from allot.certify import Statement, fixed_sequence, state, state_agreement
from allot.clock import predictions
from allot.deploy import deploy
from allot.errors import JobError
from allot.faults import EXAMPLES, fault
from allot.files import write_json, write_text
from allot.front import Front, Measured
from allot.ledger import Use, sample_digests
from allot.measure import rounded
from allot.onnx_graph import to_onnx
from allot.plan import Plan
from allot.report import page
from allot.report.data import read
from allot.run import Run
from allot.settle import settled_
from allot.sweep import outputs
from allot.target import Target
from allot.task import Task
from allot.verify import Parity, parity, require

_BATCH = 250


@dataclass(frozen=True, kw_only=True)
class Built:
    """One plan made whole: the trainable network, its stored form, the file of it."""

    task: Task
    planned: nn.Module
    deployed: nn.Module
    onnx: bytes

    @cached_property
    def simulated(self) -> Tensor:
        """Outputs of the planned network on the certify set: [n, ...]."""
        return outputs(self.task, self.planned, self.task.certify, batch=_BATCH)


def build(run: Run, m: Measured) -> Built:
    """The network of a measured plan after the recovery it was measured with."""
    standins = run.meter.standins(run.space.options(m.point), run.recovery(m.recovery))
    planned = settled_(run.bank.copy(standins), run.space.graph)
    deployed = deploy(planned, run.space.graph)
    onnx = to_onnx(deployed, run.task.example(), free=run.task.free)
    return Built(task=run.task, planned=planned, deployed=deployed, onnx=onnx)


@dataclass(frozen=True, kw_only=True)
class Delivery:
    """The last stretch of a job.  preferred: picked on search data alone, before certifying.

    statements: by position on the front, as far as the fixed sequence came.
    """

    run: Run
    front: Front
    preferred: Measured | None
    limits: Mapping[str, float]
    statements: Mapping[int, Statement] = field(default_factory=dict)
    chosen: Measured | None = None
    built: Built | None = None
    run_outputs: Tensor | None = None

    def verdict(self) -> str:
        """Why there is no artefact, and which plan came nearest."""
        drop = self.run.job.max_drop
        within = [i for i, p in enumerate(self.front.points) if self._within(p)]
        if not within:
            return (
                "no measured plan met the budgets when it was timed for real; "
                f"the front is in {self.run.folder / 'front.json'}"
            )
        tested = {i: s for i, s in self.statements.items() if i in within}
        if not tested:
            last = max(self.statements)
            s = self.statements[last]
            return (
                f"no plan within the budgets is proven to lose at most {drop:g} points: the test, "
                f"safest plan first, stopped before them at point {last}: seen {s.drop:.2f}, bound "
                f"{s.bound:.2f} points on {s.n} samples. Allow --max-drop above {s.bound:.2f}, a "
                "larger budget or more certify samples"
            )
        nearest = min(tested, key=lambda i: tested[i].bound)
        s = tested[nearest]
        return (
            f"no plan within the budgets is proven to lose at most {drop:g} points; nearest is "
            f"point {nearest}: seen {s.drop:.2f}, bound {s.bound:.2f} points on {s.n} samples. "
            f"Allow --max-drop {s.bound:.2f}, a larger budget or more certify samples"
        )

    def _within(self, m: Measured) -> bool:
        known = "latency" not in self.limits or not self.run.target.timed
        timed = m.latency_from == "measured" or known
        return timed and all(m.bills[k] <= v for k, v in self.limits.items())


def proven(d: Delivery, *, progress: Callable[[float], None]) -> Delivery:
    """Learn then test along the front, safest first, each sample used once.

    The preferred plan is judged by the predictions of its exported file in the target, the
    others by the simulation.
    """
    run, points = d.run, d.front.points
    _use_once(run, d.front)
    built = build(run, d.preferred) if d.preferred else None
    ran = _run(run, built) if built else None

    def evidence() -> object:
        for i, m in enumerate(points):
            progress(i / len(points))
            if built is not None and ran is not None and m == d.preferred:
                yield _statement(run, ran)
            else:
                yield _statement(run, _simulated(run, m))

    found = dict(enumerate(fixed_sequence(evidence())))  # type: ignore[arg-type]
    certified = [points[i] for i, s in found.items() if s.certified]
    chosen = d.preferred if d.preferred in certified else None
    if not d.limits and certified:
        chosen = min(certified, key=lambda m: m.bills["size"])
    if chosen is not None and chosen != d.preferred:
        built = build(run, chosen)
        ran = _run(run, built)
        i = points.index(chosen)
        found[i] = replace(_statement(run, ran), place=found[i].place)
        chosen = chosen if found[i].certified else None
    return replace(d, statements=found, chosen=chosen, built=built, run_outputs=ran)


def _use_once(run: Run, front: Front) -> None:
    """Writes down that the certify samples are used, or refuses when they were."""
    # what is asked of the samples: the plans in their order, whatever else is known of them
    text = json.dumps([run.job.weights, [[p.point, p.recovery] for p in front.points]])
    by = hashlib.sha256(text.encode()).hexdigest()[:16]
    digests = sample_digests(run.task.certify.inputs)
    book = ledger.read(run.folder)
    book.check_fresh(digests, by=by)
    ledger.write(book.record(Use(purpose="certify", by=by, digests=digests)), run.folder)


def _simulated(run: Run, m: Measured) -> Tensor:
    def compute() -> dict[str, list[float]]:
        standins = run.meter.standins(run.space.options(m.point), run.recovery(m.recovery))
        with run.bank.trial(standins) as model:
            found = outputs(run.task, model, run.task.certify, batch=_BATCH)
        return {"shape": list(found.shape), "values": rounded(found.flatten())}

    name = "-".join(map(str, m.point))
    kept = run.memo.get(f"certify/{name}/{m.recovery}", compute)
    return torch.tensor(kept["values"]).view(kept["shape"])


def _run(run: Run, built: Built, target: Target | None = None) -> Tensor:
    """Outputs of the exported file on the certify set in a runtime."""
    session = (target or run.target).open(built.onnx, workload=run.workload)
    return predictions(session, run.task.certify.inputs, batch=run.workload.batch)


def original_outputs(run: Run) -> Tensor:
    """Outputs of the original on the certify set."""
    return outputs(run.task, run.bank.skeleton, run.task.certify, batch=_BATCH)


def _statement(run: Run, found: Tensor) -> Statement:
    task, drop = run.task, run.job.max_drop
    original = original_outputs(run)
    labels = task.certify.labels
    if labels is None:
        return state_agreement(original.argmax(1), found.argmax(1), max_drop=drop, data=task.name)
    return state(
        task.score(original, labels),
        task.score(found, labels),
        max_drop=drop,
        metric=task.metric,
        data=task.name,
    )


def refused(d: Delivery) -> None:
    """Writes what there is without an artefact: front, harm, summary, report."""
    documents = document.common(d, original_outputs(d.run))
    for name, data in documents.items():
        write_json(d.run.folder / name, data)
    write_text(d.run.folder / "report.html", page.render(read(d.run.folder)))


def deliver(d: Delivery) -> Mapping[str, object]:
    """Checks the file against the simulation, times it, writes the artefact; the summary.

    Raises ParityError when the file computes something else than what was measured.
    """
    run, built = d.run, d.built
    if d.chosen is None or built is None or d.run_outputs is None:
        raise JobError("there is no certified plan to deliver")
    parities, times = _checked(run, built, d.run_outputs)
    options = run.space.options(d.chosen.point)
    overlay = run.meter.overlay(options, run.recovery(d.chosen.recovery))
    plan = Plan(
        graph=run.job.graph,
        weights=run.job.weights,
        options=options,
        recovery=d.chosen.recovery,
        rewrites=tuple(json.dumps(r.dump(), sort_keys=True) for r in run.job.rewrites),
        overlays=(overlay,) if overlay else (),
    )
    documents = document.whole(
        d, original_outputs(run), times=times, parities=parities, io=describe(built.onnx)
    )
    size = write_artefact(
        run.folder,
        onnx=built.onnx,
        deployed=built.deployed,
        graph=run.space.graph,
        documents={"plan.json": plan.dump(), **documents},
        coded="disk" in d.limits,
    )
    if size != d.chosen.bills["size"]:
        raise JobError(f"weights take {size} bytes on disk, the account says {d.chosen.bills}")
    on_disk = (run.folder / WEIGHTS).stat().st_size
    if "disk" in d.limits and on_disk != d.chosen.bills["disk"]:
        raise JobError(f"the weights file has {on_disk} bytes, the account says {d.chosen.bills}")
    document.add_report(run.folder)
    return documents[SUMMARY]


def _checked(
    run: Run, built: Built, outputs: Tensor
) -> tuple[dict[str, Parity], dict[str, dict[str, Any]]]:
    """Parity and times of the file by runtime: the job's own, and those it is also checked in."""
    parities = {run.target.name: verified(run, built, outputs)}
    times = {}
    if run.target.timed:
        times[run.target.name] = document.timed(run, built.onnx, run.target)
    for target in run.checked_in:
        if not target.missing() and target.name != run.target.name:
            found = _run(run, built, target)
            parities[target.name] = verified(run, built, found, target)
            times[target.name] = document.timed(run, built.onnx, target)
    return parities, times


def verified(run: Run, built: Built, found: Tensor, target: Target | None = None) -> Parity:
    """Parity of the file with the simulation; on failure the first layer that differs is named,
    and what it looks like."""
    target = target or run.target
    got = parity(built.simulated, found, divergence=run.task.divergence, within=target.tolerance)
    if got.holds:
        return got
    said = fault(
        built.onnx, built.deployed, run.task.example(EXAMPLES), target=target,
        workload=run.workload,
    )  # fmt: skip
    return require(got, where=said.layer, why=said.text)
