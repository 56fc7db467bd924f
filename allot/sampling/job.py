"""Job: a sampler made cheaper, on one page, each stage resumable.

trace -> space -> calibrate -> harm -> search -> certify -> files, report
"""

from __future__ import annotations

import copy
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from allot import job as jobs
from allot import ledger, setup
from allot.bank import Bank
from allot.calibrate import calibrate, needed
from allot.certify import Statement, fixed_sequence
from allot.errors import BudgetError, InputError, NotCertified
from allot.finalists import best_within
from allot.front import Front, Measured
from allot.harm.displacement import displacement
from allot.judging.certified import certified
from allot.ledger import Use, sample_digests
from allot.memo import Memo
from allot.outcome import Outcome
from allot.plan import Plan, weights_digest
from allot.sampling import bill, documents, space
from allot.sampling.rolled import Rolled
from allot.sampling.sampler import Sampler
from allot.sampling.task import Sampled
from allot.scene import Scene
from allot.searchers.over_time import over_time
from allot.space import Space
from allot.stages import Report, Stages, silent
from allot.target import Target, Workload
from allot.task import Task
from allot.trials import Spent, Trials

# budgets at which plans are wanted, as shares of the BitOPs of all in 8 bits
LEVELS = (1.0, 0.75, 0.5, 0.35, 0.25, 0.18, 0.12)
_BATCH = 64


@dataclass(kw_only=True, eq=False)
class SamplerRun:
    """One job of a sampler under way."""

    task: Task
    family: Sampled
    job: jobs.Job
    folder: Path
    target: Target
    stages: Stages
    space: Space
    bank: Bank
    memo: Memo
    evaluator: Rolled
    bills: Mapping[str, Any]
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


def compress(
    task: Task,
    *,
    budgets: Sequence[str] = (),
    max_drop: float = 1.0,
    target: Target,
    out: str | Path,
    seed: int = 0,
    evaluations: float | None = None,
    resume: bool = False,
    time_limit: float | None = None,
    source: str = "",
    report: Report = silent,
    tell: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """A sampler within budgets on BitOPs or size, its plan, files and proof in one folder.

    max_drop: points of feature error per sample (100: nothing in common) that the certificate must
    bound at 95 %.  evaluations: runs over the search noises that harm and search may take.  Raises
    InputError and its kinds before long work starts, NotCertified when no plan within the budgets
    is proven.
    """
    stages, out = Stages(report, limit=time_limit), Path(out)
    asked = jobs.budgets(budgets)
    for b in asked:
        if b.bill not in ("bitops", "size"):
            raise InputError(f"--budget {b.bill}: a sampler's plans have bitops and size; give one")
    task = replace(task, model=copy.deepcopy(task.model).eval().requires_grad_(False))
    with stages.stage("trace"):
        run = _begun(
            task, target=target, asked=asked, max_drop=max_drop, out=out, seed=seed, resume=resume,
            stages=stages, source=source,
        )  # fmt: skip
    front = _searched(run, evaluations=math.inf if evaluations is None else evaluations)
    preferred = best_within(front.points, run.limits)
    with stages.stage("certify") as progress:
        statements = dict(enumerate(_statements(run, front, progress)))
    chosen = _chosen(front, statements, preferred, run.limits)
    with stages.stage("export"):
        summary = documents.write(run, front, chosen, statements)
    if chosen is None:
        raise NotCertified(_verdict(run, front, statements))
    at = front.points.index(chosen)
    return Outcome(folder=out, front=front, chosen=at, statement=statements[at], summary=summary)


def _begun(
    task: Task,
    *,
    target: Target,
    asked: Sequence[jobs.Budget],
    max_drop: float,
    out: Path,
    seed: int,
    resume: bool,
    stages: Stages,
    source: str,
) -> SamplerRun:
    family, sampler = task.family, task.model
    assert isinstance(family, Sampled) and isinstance(sampler, Sampler)
    graph = family.graph(task)
    whole = space.whole(graph, target, sets=family.sets)
    costs = bill.Costs(space=whole, target=target)
    bills = {"bitops": costs.table(), "size": bill.size(whole)}
    originals = bill.originals(graph, len(sampler.grid))
    limits = {b.bill: b.limit(originals[b.bill]) for b in asked}
    _reachable(whole, costs, limits)
    job = jobs.Job(
        task=source or task.name, graph=graph.digest, weights=weights_digest(sampler),
        budgets=tuple(f"{b.bill}={b.text}" for b in asked), max_drop=max_drop,
        axes=("precision", "steps", "cache"), target=target.name, workload=Workload(batch=_BATCH),
        seed=seed,
    )  # fmt: skip
    setup.free(out, resume=resume)
    folder, memo = setup.folder(out, job, task, resume=resume)
    with stages.stage("calibrate") as progress:
        stats = calibrate(task, sampler, needed(whole), batch=_BATCH, progress=progress)
        bank = Bank(sampler, graph=graph, stats=stats)
    evaluator = Rolled(space=whole, task=task, bank=bank, data=task.search, memo=memo)
    return SamplerRun(
        task=task, family=family, job=job, folder=folder, target=target, stages=stages,
        space=whole, bank=bank, memo=memo, evaluator=evaluator, bills=bills, originals=originals,
        limits=limits,
    )  # fmt: skip


def _reachable(whole: Space, costs: bill.Costs, limits: Mapping[str, float]) -> None:
    """Raises BudgetError, which says the least that can be reached."""
    least = {"bitops": costs.least(), "size": bill.least_size(whole)}
    for name, limit in limits.items():
        if limit < least[name]:
            raise BudgetError(
                f"no plan takes {jobs.say(name, limit)}; the least is {jobs.say(name, least[name])}"
            )


def _searched(run: SamplerRun, *, evaluations: float) -> Front:
    """The signal asked, the space searched, the measured front."""
    scene = Scene(
        space=run.space, task=run.task, bank=run.bank, data=run.task.search,
        evaluator=run.evaluator, seed=run.job.seed,
    )  # fmt: skip
    with run.stages.stage("harm") as progress:
        harm = displacement(scene, progress=progress)
    with run.stages.stage("search") as progress:
        trials = Trials(
            evaluator=run.evaluator, bills=run.bills, originals=run.originals,
            levels=_levels(run), evaluations=evaluations, progress=progress,
            out_of_time=run.stages.over,
        )  # fmt: skip
        try:
            over_time(trials, harm=[harm], seed=run.job.seed)
        except Spent:
            pass  # as far as was allowed
    return trials.front()


def _levels(run: SamplerRun) -> list[dict[str, float]]:
    eight = bill.eight_bit(run.space, bill.Costs(space=run.space, target=run.target))
    found = [{"bitops": share * eight} for share in LEVELS]
    return [*found, dict(run.limits)] if run.limits else found


def _statements(
    run: SamplerRun, front: Front, progress: Callable[[float], None]
) -> list[Statement]:
    """Learn then test along the front, safest first, each noise used once."""
    text = json.dumps([run.job.weights, [p.point for p in front.points]])
    by = hashlib.sha256(text.encode()).hexdigest()[:16]
    digests = sample_digests(run.task.certify.inputs)
    book = ledger.read(run.folder)
    book.check_fresh(digests, by=by)
    ledger.write(book.record(Use(purpose="certify", by=by, digests=digests)), run.folder)
    original = run.samples(None)

    def evidence() -> Any:
        for i, m in enumerate(front.points):
            progress(i / len(front.points))
            yield certified(
                run.family.judge, original, run.samples(m), max_error=run.job.max_drop,
                data=f"{len(original)} noises",
            )  # fmt: skip

    return list(fixed_sequence(evidence()))


def _chosen(
    front: Front,
    statements: Mapping[int, Statement],
    preferred: Measured | None,
    limits: Mapping[str, float],
) -> Measured | None:
    """The preferred plan where it is proven; without budgets the proven one of fewest BitOPs."""
    proven = [front.points[i] for i, s in statements.items() if s.certified]
    if limits:
        return preferred if preferred in proven else None
    return min(proven, key=lambda m: m.bills["bitops"], default=None)


def _verdict(run: SamplerRun, front: Front, statements: Mapping[int, Statement]) -> str:
    """Why there is no artefact."""
    if not statements:
        return "no plan was measured; allow more evaluations or time"
    last = max(statements)
    s = statements[last]
    return (
        f"no plan within the budgets is proven to have a feature error of at most "
        f"{run.job.max_drop:g} points: the test, safest plan first, came to point {last} of "
        f"{len(front.points)}: seen {s.drop:.2f}, bound {s.bound:.2f} on {s.n} noises. Allow "
        f"--max-drop above {s.bound:.2f}, a larger budget or more noises"
    )


def original_samples(run: SamplerRun) -> Tensor:
    """What the original makes of the certify noises."""
    with torch.no_grad():
        return run.samples(None)
