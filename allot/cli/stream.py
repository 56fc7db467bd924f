"""Stream: results go to stdout, everything else to stderr, also what C code prints."""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from allot.stages import Report


@contextmanager
def diverted() -> Iterator[None]:
    """While it lasts, whatever is written to stdout, by a solver in C too, goes to stderr."""
    sys.stdout.flush()
    saved = os.dup(1)
    os.dup2(2, 1)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _flush_c()
        os.dup2(saved, 1)
        os.close(saved)


def _flush_c() -> None:
    """C's own buffers emptied, so that nothing of them appears after stdout is back."""
    if os.name == "posix":
        ctypes.CDLL(None).fflush(None)


def say(text: str) -> None:
    """A sentence for people, on stderr."""
    print(text, file=sys.stderr, flush=True)


def out(text: str) -> None:
    """A line of the result, on stdout."""
    print(text, flush=True)


def out_json(data: Mapping[str, Any]) -> None:
    """The result as one JSON document on stdout."""
    out(json.dumps(data, indent=1, sort_keys=True, allow_nan=False))


@contextmanager
def progress() -> Iterator[Report]:
    """Reports stages on stderr: bars with the time left at a terminal, else a line per stage."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines()
        return
    bars = Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeRemainingColumn(elapsed_when_finished=True),
        console=console,
    )
    with bars:
        yield _Bars(bars)


class _Bars:
    """One bar per stage."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._ids: dict[str, TaskID] = {}

    def __call__(self, stage: str, share: float) -> None:
        if stage not in self._ids:
            self._ids[stage] = self._bars.add_task(stage, total=1.0)
        self._bars.update(self._ids[stage], completed=min(1.0, share))


class _Lines:
    """One line per stage, when it ends."""

    def __init__(self) -> None:
        self._starts: dict[str, float] = {}
        self._said: set[str] = set()

    def __call__(self, stage: str, share: float) -> None:
        now = time.monotonic()
        start = self._starts.setdefault(stage, now)
        if share >= 1 and stage not in self._said:
            self._said.add(stage)
            say(f"{stage:<10} {now - start:6.1f} s")
