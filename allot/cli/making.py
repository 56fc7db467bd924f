"""Making: the verb that does the whole job."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from allot import flow, runtimes
from allot import job as jobs
from allot import originals as several
from allot.artefact import SUMMARY
from allot.cli import arguments as a
from allot.cli import looking, stream, tasks, words
from allot.cli.tables import result, shares
from allot.errors import BudgetError, NotCertified
from allot.files import read_json
from allot.recipes import Recipe, by_name
from allot.searchers.asked import available
from allot.target import Workload


def compress(
    task: a.TaskName,
    budget: Annotated[
        list[str],
        typer.Option(
            metavar="BILL=AMOUNT",
            help="An upper bound: size, bitops, latency, memory, disk (bytes after entropy coding) "
            "or energy (of a described accelerator), as a share of the original's (size=12%) or "
            "absolute (size=40KB, latency=4ms). May be given several times.",
            show_default=False,
        ),
    ] = [],  # noqa: B006 - read only; the shape that the option parser wants
    max_drop: Annotated[
        float,
        typer.Option(
            metavar="POINTS",
            help="Points of the task's metric that may be lost, to be proven at 95 %.",
        ),
    ] = 1.0,
    axes: Annotated[
        str,
        typer.Option(
            metavar="A,B",
            help=f"What may be changed: the axes, divided by commas. {words.USUAL} where none is "
            "given, or all that the recipe decides.",
            show_default=False,
        ),
    ] = "",
    recipe: a.Recipe = "",
    bits: a.Bits = "",
    try_rewrites: a.TryRewrites = [],  # noqa: B006
    calibration_samples: a.CalibrationSamples = None,
    select: a.Select = "",
    evaluations: a.Evaluations = None,
    target: a.TargetName = "openvino-cpu",
    batch: a.Batch = 32,
    threads: a.Threads = 1,
    latency_table: a.LatencyTable = None,
    keep_slow: a.KeepSlow = False,
    out: a.Out = None,
    pin: a.Pins = [],  # noqa: B006
    exclude: a.Excludes = [],  # noqa: B006
    seed: a.Seed = 0,
    json: a.Json = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Say what would be searched and at what cost, then stop."),
    ] = False,
    time_limit: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            min=0,
            help="Stop searching after this time and go on with the best plans so far.",
            show_default=False,
        ),
    ] = None,
    workers: a.Workers = "",
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with an interrupted job in --out.")
    ] = False,
) -> None:
    """Make a network smaller and faster within budgets, and prove what was lost.

    Writes one folder: the packed network, its plan, the front of other plans, the certificate
    and report.html. Where no plan is proven to lose at most --max-drop, front and report are
    written, the network is not, and the exit code is 3.
    """
    asked = jobs.budgets(budget)
    pinned, left = words.pins(pin), words.excludes(exclude)
    published = by_name(recipe) if recipe else None
    made_for = runtimes.by_name(target)
    passes = words.passes(evaluations)
    originals = several.named(try_rewrites)
    calibration = words.samples(calibration_samples, select)
    search = _job(published, budgets=budget, max_drop=max_drop, bits=bits)
    with stream.diverted():
        found = tasks.find(task, seed=seed)
    # what may be changed in a sampler is its family's matter
    builders = words.decided(axes, published, bits=bits) if found.family is None else {}
    folder = out or Path("runs") / found.name
    if dry_run:
        with stream.diverted():
            wanted = looking.Wanted(axes=",".join(builders), pins=pinned, excludes=left)
            space = looking.space_of(found, wanted, target=made_for)
            data, lines, f = looking.dry_run(
                found, space, target=made_for, asked=asked, max_drop=max_drop,
                recipe=published, evaluations=passes, originals=originals,
            )  # fmt: skip
        _show_forecast(data, lines, f.unreachable, json=json)
        return
    try:
        workload = Workload(batch=batch, threads=threads)
        with stream.diverted(), stream.progress() as report:
            wanted = looking.Wanted(axes=",".join(builders), pins=pinned, excludes=left)
            times = looking.times(
                found, wanted, target=made_for, workload=workload, path=latency_table, report=report
            )
            summary = search(
                found,
                times=times,
                keep_slow=keep_slow,
                budgets=budget,
                max_drop=max_drop,
                axes=builders,
                target=made_for,
                workload=workload,
                out=folder,
                seed=seed,
                pins=pinned,
                excludes=left,
                checked_in=words.others(made_for),
                originals=originals,
                calibration=calibration,
                evaluations=passes,
                resume=resume,
                time_limit=time_limit,
                workers=workers,
                source=task,
                report=report,
                tell=stream.say,
            ).summary
    except NotCertified:
        if json:
            stream.out_json(read_json(folder / SUMMARY))
        stream.say(f"front and report: {folder / 'report.html'}")
        raise
    _show(folder, summary, json=json)


def _job(
    recipe: Recipe | None, *, budgets: Sequence[str], max_drop: float, bits: str
) -> Callable[..., flow.Outcome]:
    """The whole job, searched as a recipe says or by allot's own loop."""
    if recipe is None:
        return flow.compress
    job = functools.partial(
        flow.compress,
        signals=recipe.signals,
        searcher=recipe.searched(budgets=budgets, max_drop=max_drop, bits=bits),
        prepare=recipe.prepare,
        admit=available if bits else None,
    )
    scheme = recipe.scheme(bits)
    if scheme is None:
        return job
    return functools.partial(job, rewrites=scheme.rewrites, strong=scheme.recovery)


def _show_forecast(
    data: Mapping[str, Any], lines: Sequence[str], unreachable: str, *, json: bool
) -> None:
    if json:
        stream.out_json(data)
    else:
        stream.out("\n".join(lines))
    if unreachable:
        raise BudgetError(unreachable)


def _show(folder: Path, summary: Any, *, json: bool) -> None:
    if json:
        stream.out_json(summary)
        return
    stream.out(result(summary))
    stream.out("")
    stream.out(str(read_json(folder / "certificate.json")["text"]))
    stream.out(f"time {shares(summary['seconds'])}")
    stream.out(f"report: {folder / 'report.html'}")
