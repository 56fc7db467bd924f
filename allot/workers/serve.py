"""Serve: a worker process; an order and pieces come as lines of JSON, answers go back as such.

Run as `python -m allot.workers.serve`.  The answers own the standard output: what the task's code
prints goes to the standard error, which the coordinator keeps as a file.
"""

from __future__ import annotations

import json
import os
import sys
from typing import IO, Any

from allot.errors import AllotError
from allot.workers.order import Worker, load


def main() -> None:
    """Answers until its input ends."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    worker: Worker | None = None
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            if worker is None:
                worker = Worker(load(asked))
            else:
                put(out, {"found": worker.measured(asked["points"], tuple(asked["span"]))})
        except AllotError as e:
            put(out, {"error": type(e).__name__, "text": str(e)})


def put(out: IO[str], data: dict[str, Any]) -> None:
    out.write(json.dumps(data) + "\n")
    out.flush()


if __name__ == "__main__":
    main()
