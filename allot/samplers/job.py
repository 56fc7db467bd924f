"""Job: a sampler made cheaper, on one page, each stage resumable.

trace -> space -> calibrate -> harm -> search -> certify -> files, report
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from allot import job as jobs
from allot import setup
from allot.bank import Bank
from allot.calibrate import calibrate, needed
from allot.errors import BudgetError, InputError, NotCertified
from allot.explore import Searcher
from allot.finalists import best_within
from allot.front import Front
from allot.harm.displacement import displacement
from allot.outcome import Outcome
from allot.plan import weights_digest
from allot.samplers import bill, documents, export, proof, space
from allot.samplers.rolled import Rolled
from allot.samplers.run import SamplerRun
from allot.samplers.task import Sampled
from allot.sampling.sampler import Sampler
from allot.scene import Scene
from allot.searchers.over_time import over_time
from allot.space import Space
from allot.stages import Report, Stages, silent
from allot.table import Table
from allot.target import Target, Workload
from allot.task import Task
from allot.trials import Spent, Trials

# budgets at which plans are wanted, as shares of the BitOPs of all in 8 bits
LEVELS = (1.0, 0.75, 0.5, 0.35, 0.25, 0.18, 0.12)
_BATCH = 64


def compress(
    task: Task,
    *,
    budgets: Sequence[str] = (),
    max_drop: float = 1.0,
    target: Target,
    out: str | Path,
    seed: int = 0,
    evaluations: float | None = None,
    searcher: Searcher | None = None,
    resume: bool = False,
    time_limit: float | None = None,
    source: str = "",
    report: Report = silent,
    tell: Callable[[str], None] = lambda text: None,
) -> Outcome:
    """A sampler within budgets on BitOPs or size, its plan, files and proof in one folder.

    max_drop: points of feature error per sample (100: nothing in common) that the certificate must
    bound at 95 %.  evaluations: runs over the search noises that harm and search may take.
    searcher: None for `allot.searchers.over_time`, whose harm is found first.  Raises
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
        assert isinstance(task.family, Sampled)
        task = task.family.fitted(task)
        run = _begun(
            task, target=target, asked=asked, max_drop=max_drop, out=out, seed=seed, resume=resume,
            stages=stages, source=source, method=jobs.method(searcher),
        )  # fmt: skip
    front = _searched(run, searcher, math.inf if evaluations is None else evaluations)
    preferred = best_within(front.points, run.limits)
    with stages.stage("certify") as progress:
        statements = dict(enumerate(proof.statements(run, front, progress)))
    chosen = proof.chosen(front, statements, preferred, run.limits)
    with stages.stage("export"):
        ran = None if chosen is None else export.ran(run, chosen)
        if chosen is not None and ran is not None:
            statements = export.restated(run, front, chosen, ran, statements)
            chosen = proof.chosen(front, statements, chosen, run.limits)
        summary = documents.write(run, front, chosen, statements, ran)
    if chosen is None:
        raise NotCertified(proof.verdict(run, front, statements))
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
    method: tuple[str, ...],
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
        seed=seed, method=method,
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


def _searched(run: SamplerRun, searcher: Searcher | None, evaluations: float) -> Front:
    """The signal asked, the space searched, the measured front."""
    scene = Scene(
        space=run.space, task=run.task, bank=run.bank, data=run.task.search,
        evaluator=run.evaluator, seed=run.job.seed,
    )  # fmt: skip
    harm: list[Table] = []
    if searcher is None:
        with run.stages.stage("harm") as progress:
            harm.append(displacement(scene, progress=progress))
    with run.stages.stage("search") as progress:
        trials = Trials(
            evaluator=run.evaluator, bills=run.bills, originals=run.originals,
            levels=_levels(run), evaluations=evaluations, progress=progress,
            out_of_time=run.stages.over,
        )  # fmt: skip
        try:
            (searcher or over_time)(trials, harm=harm, seed=run.job.seed)
        except Spent:
            pass  # as far as was allowed
    return trials.front()


def _levels(run: SamplerRun) -> list[dict[str, float]]:
    eight = bill.eight_bit(run.space, bill.Costs(space=run.space, target=run.target))
    found = [{"bitops": share * eight} for share in LEVELS]
    # what was asked for comes first: it must not lack when evaluations run out
    asked = {"bitops": run.originals["bitops"], **run.limits}
    return [asked, *found] if run.limits else found
