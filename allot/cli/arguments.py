"""Arguments: the options that several verbs share, with the help a newcomer reads."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

TaskName = Annotated[
    str,
    typer.Argument(
        metavar="TASK",
        help="What to compress: FILE.py:FUNCTION (the file is run, the function returns an "
        "allot.Task), a directory that diffusers wrote (DIR@steps=20 for so many steps), or a "
        "built-in name like digits-resnet.",
        show_default=False,
    ),
]
Folder = Annotated[
    Path,
    typer.Argument(metavar="FOLDER", help="The folder of a finished run.", show_default=False),
]
TaskAgain = Annotated[
    str,
    typer.Option(
        "--task",
        metavar="TASK",
        help="The run's task, where it is no longer where the run found it.",
        show_default=False,
    ),
]
Axes = Annotated[
    str,
    typer.Option(metavar="A,B", help="What may be changed: the axes, divided by commas."),
]
Recipe = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Search by a published method; allot recipes shows which there are.",
        show_default=False,
    ),
]
Bits = Annotated[
    str,
    typer.Option(
        metavar="W4A8",
        help="One precision for all that the recipe quantizes, W4A8g32 for weights in groups of "
        "32; without it the search chooses.",
        show_default=False,
    ),
]
Evaluations = Annotated[
    float | None,
    typer.Option(
        metavar="F",
        help="Most forward passes over the search samples that the search may spend, all "
        "estimates of harm included.",
        show_default=False,
    ),
]
TryRewrites = Annotated[
    list[str],
    typer.Option(
        "--try-rewrites",
        metavar="NAME",
        help="Function-preserving rewrites of the network to choose among, none always among them: "
        "equalize, smooth, rotate and others, or auto for all. May be given several times.",
        show_default=False,
    ),
]
CalibrationSamples = Annotated[
    int | None,
    typer.Option(
        "--calibration-samples",
        metavar="N",
        help="Calibrate on N of the task's calibration samples; all where it is not given.",
        show_default=False,
    ),
]
Select = Annotated[
    str,
    typer.Option(
        "--select",
        metavar="HOW",
        help="Which N: first, dense-diverse, cover, or balanced over the experts of a mixture.",
        show_default=False,
    ),
]
Workers = Annotated[
    str,
    typer.Option(
        metavar="WHO",
        help="Who measures plans: a number of processes, ray for a cluster of this machine, or "
        "ray://HOST:PORT.",
        show_default=False,
    ),
]
TargetName = Annotated[
    str,
    typer.Option("--target", metavar="NAME", help="The runtime to make the network for."),
]
Batch = Annotated[int, typer.Option(min=1, help="Samples per call that latency is for.")]
LatencyTable = Annotated[
    Path | None,
    typer.Option(
        "--latency-table",
        metavar="FILE",
        help="Seconds of every distinct layer alone: what the file lacks is measured and written "
        "into it, and what never pays by it is struck out.",
        show_default=False,
    ),
]
KeepSlow = Annotated[
    bool,
    typer.Option(
        "--keep-slow",
        help="Keep options that by the times of layers alone are neither faster nor smaller and "
        "no slower, whatever is chosen beside them.",
    ),
]
Threads = Annotated[int, typer.Option(min=1, help="Threads that latency is for.")]
Pins = Annotated[
    list[str],
    typer.Option(
        "--pin",
        metavar="NAME=OPTION",
        help="Fix one site to an option, like conv1.weight=W8. May be given several times.",
        show_default=False,
    ),
]
Excludes = Annotated[
    list[str],
    typer.Option(
        "--exclude",
        metavar="PATTERN",
        help="Leave a site as it is: its name, or re: and a regular expression. May be given "
        "several times.",
        show_default=False,
    ),
]
Seed = Annotated[int, typer.Option(min=0, help="Seed of every random choice.")]
Json = Annotated[
    bool, typer.Option("--json", help="Print one JSON document on stdout and nothing else there.")
]
Out = Annotated[
    Path | None,
    typer.Option("--out", metavar="PATH", help="Where to write.", show_default=False),
]
