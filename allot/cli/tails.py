"""Tails: how long calls of a compressed network take at worst, and why they differ."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from allot import runtimes
from allot.artefact import Artefact, check_inputs, open_artefact
from allot.cli import arguments as a
from allot.cli import arrays, stream
from allot.cli.tables import grid
from allot.errors import MissingError
from allot.repetition import Tail, busy, repeated
from allot.report import text
from allot.target import Arrays, Session, Target, Workload

_INPUTS = 5


def profile(
    folder: a.Folder,
    inputs: Annotated[
        Path,
        typer.Argument(
            metavar="INPUT.npz",
            help="Samples by the names of the network's inputs: several batches, so that what "
            "depends on the data shows.",
            show_default=False,
        ),
    ],
    target: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="Another runtime than the run's own.", show_default=False
        ),
    ] = "",
    threads: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Compare one thread with N; with as many as there are cores where not given.",
            show_default=False,
        ),
    ] = None,
    calls: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="N",
            help="Calls under each condition; as many as bound the 99th percentile (299) where "
            "not given.",
            show_default=False,
        ),
    ] = None,
    seed: a.Seed = 0,
    json: a.Json = False,
) -> None:
    """Show how long calls of a compressed network take at worst, and why they differ.

    It is called on one thread and on several, with the machine idle and with a busy process on
    every core, on up to five batches and loaded three times; the variance of all calls is divided
    among these.
    """
    artefact = open_artefact(folder)
    runtime = runtimes.by_name(target) if target else artefact.target()
    if runtime.missing():
        raise MissingError(runtime.missing())
    batch = int(artefact.summary.get("workload", {}).get("batch", 32))
    given = batches(artefact, arrays.read(inputs), batch)
    many = tuple(sorted({1, threads or os.cpu_count() or 1}))
    with stream.diverted(), busy() as background:
        found = repeated(
            _loader(artefact, runtime, batch),
            given,
            threads=many,
            background=background,
            calls=calls,
            seed=seed,
        )
    if json:
        stream.out_json({"target": runtime.name, "batch": batch, **found.dump()})
    else:
        stream.out(table(found))


def batches(artefact: Artefact, given: Arrays, batch: int) -> list[Arrays]:
    """Up to five whole batches of the samples, or one in which they are repeated.

    Raises DataError where they do not fit the network.
    """
    check_inputs(given, artefact.summary["inputs"])
    n = len(next(iter(given.values())))
    count = max(1, min(_INPUTS, n // batch))
    rows = [np.arange(i * batch, (i + 1) * batch) % n for i in range(count)]
    return [{name: x[r] for name, x in given.items()} for r in rows]


def _loader(artefact: Artefact, target: Target, batch: int) -> Callable[[int], Session]:
    """threads -> the network, loaded anew."""
    onnx = artefact.onnx()

    def load(threads: int) -> Session:
        return target.open(onnx, workload=Workload(batch=batch, threads=threads))

    return load


def table(found: Tail) -> str:
    """Quantiles under each condition, then the sources of the spread."""
    rows = [
        (
            f"{c.threads} thread{'s' if c.threads > 1 else ''}, {c.load}",
            text.seconds(c.p50.value_s),
            text.seconds(c.p99.value_s),
            _bound(c.p99.upper_s),
            str(c.p99.n),
        )
        for c in found.conditions
    ]
    sources = [
        (
            s.name,
            text.percent(s.share),
            text.percent(s.chance),
            ", ".join(f"{k}: {text.seconds(v)}" for k, v in s.levels.items()),
        )
        for s in found.spread.sources
    ]
    deviation = text.seconds(found.spread.variance**0.5)
    return "\n".join(
        [
            grid(("calls", "p50", "p99", "p99 at most (95 %)", "n"), rows),
            f"standard deviation of all {found.spread.n} calls: {deviation}; where it comes from:",
            grid(("source", "share of variance", "by chance", "mean at each level"), sources),
        ]
    )


def _bound(upper: float) -> str:
    return text.seconds(upper) if math.isfinite(upper) else "too few calls"
