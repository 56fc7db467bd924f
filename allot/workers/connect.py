"""Connect: workers as users name them: "4", "ray", "ray://host:port"."""

from __future__ import annotations

import re
from pathlib import Path

from allot.errors import InputError
from allot.workers.cluster import Cluster
from allot.workers.crew import Crew
from allot.workers.order import Order
from allot.workers.processes import Processes

_ADDRESS = re.compile(r"ray://[A-Za-z0-9_.\-\[\]:]+:\d{1,5}")


def check(workers: str) -> None:
    """Raises InputError for what names no workers; to be asked before long work starts."""
    number = workers.isascii() and workers.isdigit() and int(workers) > 0
    if not (number or workers == "ray" or _ADDRESS.fullmatch(workers)):
        raise InputError(
            f"--workers {workers}: give a number of processes such as 4, ray for a cluster of this "
            "machine, or ray://HOST:PORT"
        )


def connect(workers: str, given: Order, *, folder: Path) -> Crew:
    """The crew that a text names.  folder: where local processes leave what they print.

    Raises InputError for any other text, MissingError where Ray is named and not installed.
    """
    check(workers)
    if workers.isdigit():
        return Processes(given, workers=int(workers), folder=folder)
    return Cluster(given, address="" if workers == "ray" else workers)
