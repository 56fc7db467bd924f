"""Looking: what could be changed in a network, and what searching it would cost."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from allot import runtimes, setup
from allot.cli import arguments as a
from allot.cli import stream, tasks, words
from allot.cli.tables import grid
from allot.errors import InputError
from allot.forecast import Forecast, forecast
from allot.job import Budget, Struck, say
from allot.kernel_probe import never_paying, probed
from allot.latency import LatencyTable
from allot.recipes import Recipe
from allot.report import text
from allot.site import Graph
from allot.space import Choice, Space
from allot.stages import Report
from allot.target import Target, Workload
from allot.task import Task
from allot.trace import trace


def analyze(
    task: a.TaskName,
    axes: a.Axes = words.USUAL,
    target: a.TargetName = "openvino-cpu",
    pin: a.Pins = [],  # noqa: B006 - read only; the shape that the option parser wants
    exclude: a.Excludes = [],  # noqa: B006
    batch: a.Batch = 32,
    threads: a.Threads = 1,
    latency_table: a.LatencyTable = None,
    seed: a.Seed = 0,
    json: a.Json = False,
) -> None:
    """Show what could be changed in a network: sites, options, ties and what stays in float.

    With --latency-table every distinct layer is timed alone in the target, once, and options that
    are neither faster nor smaller and no slower are struck out.

    A site is one place of one decision: the weights of a layer, the tensor between two layers,
    a group of channels that runs through several layers and must be narrowed as one.
    """
    asked = Wanted(axes=axes, pins=words.pins(pin), excludes=words.excludes(exclude))
    made_for, workload = runtimes.by_name(target), Workload(batch=batch, threads=threads)
    with stream.diverted(), stream.progress() as report:
        found = tasks.find(task, seed=seed)
        measured = times(
            found, asked, target=made_for, workload=workload, path=latency_table, report=report
        )
        space = space_of(found, asked, target=made_for)
        if measured is not None:
            never = never_paying(space, target=made_for, workload=workload, times=measured)
            space = space_of(found, asked, target=made_for, struck=never)
    if json:
        stream.out_json({"task": found.name, "target": target, **described(space)})
        return
    stream.out(f"{found.name} for {target}: {headline(space)}\n")
    stream.out(sites(space))
    for line in remarks(space):
        stream.out(line)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What of a network may be changed, as it was asked for."""

    axes: str
    pins: Mapping[str, str]
    excludes: Sequence[str]


def space_of(task: Task, wanted: Wanted, *, target: Target, struck: Sequence[Struck] = ()) -> Space:
    """The space of a task, as a job would search it."""
    setup.check(task, target=target, max_drop=100, asked=())
    graph = trace(task.model, task.forward, task.example())
    return setup.space(
        graph, words.axes(wanted.axes), target=target, pins=wanted.pins,
        excludes=wanted.excludes, struck=struck,
    )  # fmt: skip


def times(
    task: Task,
    wanted: Wanted,
    *,
    target: Target,
    workload: Workload,
    path: Path | None,
    report: Report,
) -> LatencyTable | None:
    """Seconds of layers alone from a file, measured where it lacks them; None without a file.

    Raises InputError for a target whose time cannot be measured.
    """
    if path is None:
        return None
    if not target.timed:
        raise InputError(f"--latency-table: {target.name} runs nothing that could be timed")
    space = space_of(task, wanted, target=target)
    return probed(
        space, target=target, workload=workload, path=path,
        progress=lambda done, total: report("kernels", done / total),
    )  # fmt: skip


def headline(space: Space) -> str:
    graph = space.graph
    macs = text.count(sum(x.macs for x in graph.layers))
    return (
        f"{len(graph.layers)} layers, {text.size(graph.folded_bytes)} in float32, {macs} "
        f"multiplications; {len(space.choices)} choices, 10^{_power(space)} plans"
    )


def _power(space: Space) -> int:
    return round(sum(math.log10(n) for n in space.counts))


def sites(space: Space) -> str:
    """A line per choice: options, what is tied to it."""
    rows = []
    for c in space.choices:
        site = space.graph.site(c.site)
        labels = " ".join(o.label for o in c.options)
        shape = "×".join(map(str, site.shape))
        rows.append((c.site, shape, labels, _tied(c, space.graph)))
    return grid(("site", "shape", "options", "goes with"), rows, left=4)


def _tied(choice: Choice, graph: Graph) -> str:
    site = graph.site(choice.site)
    if site.kind == "channels":
        return ", ".join(site.reach)
    return ", ".join(choice.tied)


def remarks(space: Space) -> list[str]:
    """What is struck out, kept and not understood, each once."""
    graph = space.graph
    found = [f"struck out at {n} sites, {why}" for why, n in struck(space).items()]
    found += [f"{s.name} stays as it is: {s.fixed}" for s in graph.sites if s.fixed]
    found += [
        f"{name} ({kind}, {n} parameters) is not understood and stays in float"
        for name, kind, n in graph.unknown
    ]
    return found


def struck(space: Space) -> dict[str, int]:
    """ "label: reason" -> number of sites at which it is struck out."""
    found: dict[str, int] = {}
    for c in space.choices:
        for label, reason in c.struck:
            found[f"{label}: {reason}"] = found.get(f"{label}: {reason}", 0) + 1
    return found


def described(space: Space) -> dict[str, Any]:
    """The space as JSON data."""
    graph = space.graph
    return {
        "graph": graph.digest,
        "bytes": graph.folded_bytes,
        "macs": sum(x.macs for x in graph.layers),
        "plans_log10": round(sum(math.log10(n) for n in space.counts), 2),
        "choices": [
            {
                "site": c.site,
                "kind": graph.site(c.site).kind,
                "shape": list(graph.site(c.site).shape),
                "options": [o.label for o in c.options],
                "tied": list(c.tied),
                "reach": list(graph.site(c.site).reach),
                "struck": [list(s) for s in c.struck],
            }
            for c in space.choices
        ],
        "fixed": {s.name: s.fixed for s in graph.sites if s.fixed},
        "unknown": [list(u) for u in graph.unknown],
    }


def dry_run(
    task: Task,
    space: Space,
    *,
    target: Target,
    asked: Sequence[Budget],
    max_drop: float,
    recipe: Recipe | None = None,
    evaluations: float | None = None,
    originals: Collection[str] = (),
) -> tuple[dict[str, Any], list[str], Forecast]:
    """What a job would do, as JSON data and as lines for people."""
    f = forecast(task, space, target=target, asked=asked, originals=originals)
    provable = setup.provable(task, max_drop)
    passes, seconds = _cost(f, recipe, evaluations)
    data = {
        **described(space),
        "provable": provable,
        "recipe": recipe.name if recipe else "",
        "forward_passes": passes and round(passes),
        "seconds": seconds and round(seconds),
        "memory_bytes": round(f.memory_bytes),
        "smallest": {k: {"value": v, "share": s} for k, (v, s) in f.smallest.items()},
        "unreachable": f.unreachable,
    }
    least = [f"{k} {say(k, v)} ({text.percent(s, 2)})" for k, (v, s) in f.smallest.items()]
    if target.timed:
        least.append("latency: known once layers are timed")
    lines = [
        f"{task.name} for {target.name}: {headline(space)}",
        *(f"{c.site}: {' '.join(o.label for o in c.options)}" for c in space.choices),
        *remarks(space),
        _said(passes, seconds, recipe, task),
        f"{text.size(f.memory_bytes)} of memory beside the network's",
        provable,
        f"smallest reachable: {'; '.join(least)}",
    ]
    return data, lines, f


def _cost(
    f: Forecast, recipe: Recipe | None, evaluations: float | None
) -> tuple[float | None, float | None]:
    """Forward passes and seconds; of a recipe they are known only where they are bounded."""
    own = f.passes if recipe is None else math.inf
    passes = own if evaluations is None else min(own, evaluations)
    if math.isinf(passes):
        return None, None
    return passes, f.seconds * passes / f.passes


def _said(passes: float | None, seconds: float | None, recipe: Recipe | None, task: Task) -> str:
    over = f"forward passes over {len(task.search)} search samples"
    if recipe is None:
        return f"about {passes:.0f} {over}, {text.seconds(seconds)}"
    if passes is None:
        return f"as many {over} as recipe {recipe.name} takes; --evaluations bounds them"
    return f"at most {passes:.0f} {over}, {text.seconds(seconds)}"
