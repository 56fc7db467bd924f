"""Machine: what is installed here, and the benchmarks of a source checkout."""

from __future__ import annotations

import importlib
import os
import platform
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any

import torch
import typer

import allot
from allot import builtin, runtimes
from allot.cli import arguments as a
from allot.cli import stream, words
from allot.cli.tables import grid
from allot.errors import InputError, JobError
from allot.files import write_json
from allot.versions import versions

_ROOT = Path(allot.__file__).resolve().parents[1]


def bench(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="The benchmark, like main.", show_default=False)
    ],
    json: Annotated[
        Path | None,
        typer.Option(
            "--json", metavar="FILE", help="Where to write the figures.", show_default=False
        ),
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A smaller version, under five minutes.")
    ] = False,
    seed: a.Seed = 0,
) -> None:
    """Run a benchmark of the source checkout and write its figures beside their bars.

    The exit code is 1 where a figure misses its bar.
    """
    module = _benchmark(name)
    with stream.diverted():
        figures = module.run(quick, seed)
        origin = module.origin() if "origin" in vars(module) else {"machine": versions()}
    if json is not None:
        write_json(json, {**origin, "quick": quick, "seed": seed, "figures": figures})
    rows = [
        (k, f"{f['value']:.4g}", f"{f['bar']:g}", "yes" if f["holds"] else "NO", str(f["n"]))
        for k, f in figures.items()
    ]
    stream.out(grid(("figure", "value", "bar", "holds", "n"), rows))
    for k, f in figures.items():
        if f.get("left_out"):
            stream.out(f"{k}: left out: {f['left_out']}")
    missed = [k for k, f in figures.items() if not f["holds"]]
    if missed:
        raise JobError(f"{len(missed)} of {len(figures)} figures miss their bar: {missed[0]} ...")


def _benchmark(name: str) -> ModuleType:
    """The module of a benchmark; raises InputError outside of a checkout or for another name."""
    folder = _ROOT / "benchmarks"
    if not folder.is_dir():
        raise InputError("benchmarks are in the source checkout; there is none around this allot")
    if name not in _benchmarks(folder):
        raise InputError(f"no benchmark {name!r}; there are {', '.join(_benchmarks(folder))}")
    if str(_ROOT) not in sys.path:
        sys.path.insert(0, str(_ROOT))
    module = importlib.import_module(f"benchmarks.{name}")
    if "run" not in vars(module):
        raise InputError(f"benchmarks/{name}.py has no run(quick, seed)")
    return module


def _benchmarks(folder: Path) -> list[str]:
    files = [*folder.glob("*.py"), *folder.glob("*/__init__.py")]
    names = [f.parent.name if f.stem == "__init__" else f.stem for f in files]
    runs = ["\ndef run(" in f.read_text() for f in files]
    return sorted(n for n, ok in zip(names, runs, strict=True) if ok)


def doctor(json: a.Json = False) -> None:
    """Show what is installed, which targets work here and where benchmark data are looked for."""
    found = state()
    if json:
        stream.out_json(found)
        return
    stream.out(f"allot {found['allot']}, {found['cores']} cores, {found['threads']} torch threads")
    stream.out(grid(("library", "version"), list(found["versions"].items()), left=2))
    rows = [(k, t["works"] or t["lacks"]) for k, t in found["targets"].items()]
    stream.out(grid(("target", "works"), rows, left=2))
    stream.out(f"axes: {', '.join(found['axes'])}")
    stream.out(f"built-in tasks: {', '.join(found['tasks'])}")
    zoo = found["zoo"]
    stream.out(f"benchmark data: {zoo['folder']} ({'there' if zoo['exists'] else 'not there'})")


def state() -> dict[str, Any]:
    """What this machine can do, as data."""
    zoo = Path(os.environ.get("ALLOT_ZOO", _ROOT.parent / "shared" / "zoo"))
    return {
        "allot": metadata.version("allot"),
        "system": platform.platform(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "versions": versions(),
        "targets": {
            t.name: {"works": t.version() if not t.missing() else "", "lacks": t.missing()}
            for t in runtimes.ALL
        },
        "axes": list(words.all_axes()),
        "tasks": sorted(builtin.TASKS),
        "zoo": {"folder": str(zoo), "exists": zoo.is_dir()},
    }
