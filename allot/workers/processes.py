"""Processes: workers on this machine, each a Python process of its own."""

from __future__ import annotations

import json
import os
import selectors
import subprocess
import sys
from pathlib import Path

from allot.workers.crew import Answer, Lost, Piece, Refused
from allot.workers.order import Order

LAST = 400  # characters of a lost worker's last words that are quoted


class Processes:
    """The `Crew` of local processes.  folder: what they print goes to files there.

    A worker starts with its first piece, and anew with the first after it was lost.
    """

    def __init__(self, given: Order, *, workers: int, folder: Path) -> None:
        self._given, self._folder = given, folder
        self._running: list[subprocess.Popen[bytes] | None] = [None] * workers
        self._selector = selectors.DefaultSelector()
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def size(self) -> int:
        return len(self._running)

    @property
    def ids(self) -> list[int | None]:
        """Process id of every worker, None where it does not run."""
        return [None if p is None else p.pid for p in self._running]

    def send(self, worker: int, piece: Piece) -> None:
        process = self._running[worker] or self._start(worker)
        asked = {"points": piece.points, "span": piece.span}
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps(asked).encode() + b"\n")
            process.stdin.flush()
        except BrokenPipeError:
            return  # `wait` finds its output ended

    def wait(self) -> list[tuple[int, Answer]]:
        return [(key.data, self._answer(key.data)) for key, _ in self._selector.select()]

    def close(self) -> None:
        for worker, process in enumerate(self._running):
            if process is not None:
                process.kill()
                self._forget(worker, process)
        self._selector.close()

    def _start(self, worker: int) -> subprocess.Popen[bytes]:
        threads = str(self._given.threads)
        with self._log(worker).open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "allot.workers.serve"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, "OMP_NUM_THREADS": threads, "PYTHONPATH": _path()},
            )
        assert process.stdin is not None
        self._running[worker] = process
        self._selector.register(process.stdout, selectors.EVENT_READ, worker)  # type: ignore[arg-type]
        process.stdin.write(json.dumps(self._given.dump()).encode() + b"\n")
        return process

    def _answer(self, worker: int) -> Answer:
        process = self._running[worker]
        assert process is not None and process.stdout is not None
        line = process.stdout.readline()
        if not line.endswith(b"\n"):
            process.kill()
            code = self._forget(worker, process)
            words = self._log(worker).read_text(errors="replace").strip()[-LAST:]
            return Lost(why=f"worker {worker} ended with {code}; its last words: {words or 'none'}")
        data = json.loads(line)
        if "error" in data:
            return Refused(kind=data["error"], text=data["text"])
        return list(data["found"])

    def _forget(self, worker: int, process: subprocess.Popen[bytes]) -> int:
        self._selector.unregister(process.stdout)  # type: ignore[arg-type]
        code = process.wait()
        for stream in (process.stdin, process.stdout):
            assert stream is not None
            try:
                stream.close()
            except BrokenPipeError:
                pass  # what was still to be sent to it
        self._running[worker] = None
        return code

    def _log(self, worker: int) -> Path:
        return self._folder / f"worker-{worker}.log"


def _path() -> str:
    """The import path of this process, so that a worker finds the same modules."""
    return os.pathsep.join(p or os.getcwd() for p in sys.path)
