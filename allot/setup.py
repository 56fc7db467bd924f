"""Setup: from what was asked to what can be worked on; bad input ends here, in one sentence."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from allot import certify, entropy_coding, ledger, part
from allot import check as checks
from allot.audit import audited
from allot.dominated import cut
from allot.embeddings import in_float
from allot.errors import BudgetError, InputError, MissingError, PlanError
from allot.files import read_json, write_json
from allot.job import Budget, Job, Struck, say, taken
from allot.ledger import Use, sample_digests
from allot.memo import Memo
from allot.recover import STRONG, Recovery
from allot.rewrites.rewrite import Rewrite
from allot.site import Graph
from allot.solve.milp import smallest, solve
from allot.space import Space
from allot.table import Table
from allot.target import Target, Workload
from allot.task import Task

JOB, MEMO, ORIGINALS = "job.json", "measurements.jsonl", "originals.jsonl"
LAYERS = "layers.jsonl"


def check(task: Task, *, target: Target, max_drop: float, asked: Sequence[Budget]) -> None:
    """Raises InputError for a task, target, drop or budget that nothing could be done with."""
    lacking = target.missing()
    if lacking:
        raise MissingError(lacking)
    if not 0 < max_drop <= 100:
        raise InputError(f"--max-drop {max_drop:g}: points of the metric, above 0 and up to 100")
    for b in asked:
        if b.bill == "disk" and entropy_coding.missing():
            raise MissingError(entropy_coding.missing())
        # what a file takes on the disk is no matter of the runtime
        if b.bill not in (*target.bills, "disk"):
            have = ", ".join(target.bills)
            raise InputError(
                f"--budget {b.bill}={b.text}: {target.name} states {have}, not {b.bill}; "
                "choose another target or bill"
            )
    checks.check(task)


def space(
    graph: Graph,
    axes: Mapping[str, Callable[..., Space]],
    *,
    target: Target,
    pins: Mapping[str, str],
    excludes: Sequence[str],
    struck: Sequence[Struck] = (),
) -> Space:
    """The space of all axes, cut to what the target can, with pins and exclusions.

    struck: options that never pay, see `allot.dominated`.
    """
    whole = Space(graph=graph, choices=())
    for build in axes.values():
        whole = whole + build(graph, target)
    whole = whole.only(lambda option, site: target.can(option, site, graph))
    whole = cut(whole, struck)
    for pattern in excludes:
        whole = whole.exclude(pattern)
    for name, label in pins.items():
        whole = whole.pin(name, label)
    if all(n == 1 for n in whole.counts):
        raise InputError(
            f"nothing is left to choose: {len(whole.choices)} sites on the axes "
            f"{', '.join(axes)}, each with one option"
        )
    return whole


def remarks(task: Task, graph: Graph, max_drop: float) -> Iterator[str]:
    """What a user should know before any long work."""
    yield provable(task, max_drop)
    yield from in_float(graph)
    for finding in audited(task):
        yield f"calibration data: {finding.sentence}"


def provable(task: Task, max_drop: float) -> str:
    """What the certify set can prove at best; said before any long work."""
    n = len(task.certify)
    best = certify.smallest_provable_drop(n)
    usual = certify.smallest_provable_drop(n, discordant_share=0.02)
    text = (
        f"{n} certify samples can prove a drop of {best:.2f} points if no prediction changes, "
        f"about {usual:.2f} if 2 % of them change; asked: {max_drop:g}"
    )
    if max_drop < best:
        need = certify.samples_needed(max_drop)
        text += f". That cannot be proven; it takes at least {need} samples"
    return text


def folder(path: Path, job: Job, task: Task, *, resume: bool) -> tuple[Path, Memo]:
    """The run's folder and what was measured in it before.

    Raises InputError for a folder that is in use unless the same job is resumed there.
    """
    if _begun(path):
        free(path, resume=resume)
        _same_job(path, job)
    write_json(path / JOB, job.dump())
    used = ledger.read(path)
    by = f"{job.graph}-{job.weights}-{job.seed}"
    for purpose, data in (("calibrate", task.calibrate), ("search", task.search)):
        used = used.record(Use(purpose=purpose, by=by, digests=sample_digests(data.inputs)))
    ledger.write(used, path)
    return path, Memo(path / MEMO)


def free(path: Path, *, resume: bool) -> None:
    """Raises InputError for a file, and for a folder in use in which nothing is resumed."""
    if path.exists() and not path.is_dir():
        raise InputError(f"{path} is a file; --out names a folder")
    if path.exists() and any(path.iterdir()) and not resume:
        raise InputError(
            f"{path} is not empty; continue the job in it with --resume, or give another --out"
        )


def _begun(path: Path) -> bool:
    """Whether a folder holds more than what timing layers and comparing originals left there."""
    before = (ORIGINALS, LAYERS)
    return path.is_file() or (path.exists() and any(p.name not in before for p in path.iterdir()))


def abandon(path: Path) -> None:
    """Takes a folder away again in which a job ended before it measured anything of worth."""
    for name in (JOB, MEMO, ORIGINALS, LAYERS, ledger.FILE):
        (path / name).unlink(missing_ok=True)
    if not any(path.iterdir()):
        path.rmdir()


def _same_job(path: Path, job: Job) -> None:
    if not (path / JOB).exists():
        raise InputError(f"{path} holds no job to resume; give another --out")
    differ = job.differs(read_json(path / JOB))
    if differ:
        raise InputError(
            f"the job in {path} was another one: {', '.join(differ)} differ; start it with the "
            "same settings or give another --out"
        )


def read_job(path: Path) -> Job:
    """The job of a run's folder; raises InputError where there is none."""
    if not (path / JOB).exists():
        raise InputError(f"{path} is no run of allot: it has no {JOB}")
    data = read_json(path / JOB)
    return Job(
        **{
            **data,
            "workload": Workload(**data["workload"]),
            "budgets": tuple(data["budgets"]),
            "axes": tuple(data["axes"]),
            "pins": tuple((a, b) for a, b in data["pins"]),
            "excludes": tuple(data["excludes"]),
            "method": tuple(data.get("method", ())),
            "rewrites": part.load(data.get("rewrites", [])),
            "struck": tuple((a, b, c) for a, b, c in data.get("struck", ())),
            "originals": tuple((n, part.load(rs)) for n, rs in data.get("originals", ())),
            "calibration": taken(data.get("calibration")),
            "strong": part.load(data.get("strong")),
        }
    )


def same(job: Job, *, graph: str, weights: str) -> None:
    """Raises PlanError unless the job was about this network with these weights."""
    if job.graph != graph:
        raise PlanError(f"the run was made for another network: {job.graph}, this one is {graph}")
    if job.weights != weights:
        raise PlanError(f"the run was made for other weights: {job.weights}, these are {weights}")


def limits(
    space: Space,
    asked: Sequence[Budget],
    *,
    bills: Mapping[str, Table],
    originals: Mapping[str, float],
) -> dict[str, float]:
    """Upper bounds in base units.

    Raises BudgetError for a bound that no plan meets, with the smallest of every bill that one
    does, and for a bound above the original, with both.
    """
    found = {b.bill: b.limit(originals[b.bill]) for b in asked}

    def describe(name: str, value: float) -> str:
        return f"{say(name, value)} ({100 * value / originals[name]:.2f} % of the original)"

    for b in asked:
        if found[b.bill] > originals[b.bill]:
            least = smallest(space.counts, bills[b.bill])[1]
            raise BudgetError(
                f"--budget {b.bill}={b.text} is more than the original itself, which has "
                f"{say(b.bill, originals[b.bill])}; give a bound below that, down to "
                f"{describe(b.bill, least)}",
                smallest={b.bill: least},
            )
    if found:
        nothing = Table(unit="nat", origin="none")
        solve(space.counts, harm=nothing, bills=bills, limits=found, describe=describe)
    return found


def evaluations(asked: float) -> None:
    """Raises InputError for a number of passes that a search may spend which is none.

    What is too few for the signals is told when they are asked (see `allot.capped`).
    """
    if not asked > 0:
        raise InputError(
            f"--evaluations {asked:g}: forward passes over the search set, a number above 0"
        )


def middle(space: Space, bills: Mapping[str, Table], originals: Mapping[str, float]) -> float:
    """A size halfway (on a log scale) between the smallest and the original."""
    least = smallest(space.counts, bills["size"])[1]
    return math.sqrt(least * originals["size"])


def rewrites(job: Job) -> tuple[Rewrite, ...]:
    """What the network of a job went through; raises PlanError for a file that names others."""
    found = tuple(r for r in job.rewrites if isinstance(r, Rewrite))
    if len(found) < len(job.rewrites):
        raise PlanError("the job names rewrites that are none; its file is not to be trusted")
    return found


def strong(job: Job) -> Recovery:
    """The recovery of a job's finalists."""
    return job.strong if isinstance(job.strong, Recovery) else STRONG
