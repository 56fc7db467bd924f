"""Repetition: one network called under every combination of conditions, taking turns."""

from __future__ import annotations

import itertools
import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np

from allot.errors import InputError
from allot.tail import Array, Quantile, Spread, calls_needed, quantile, spread
from allot.target import Arrays, Session

IDLE, BUSY = "idle", "busy"


class Background(Protocol):
    """Work beside the network that can be started and halted."""

    def resume(self) -> None: ...

    def pause(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Condition:
    """Calls on so many threads with the machine idle or busy: median and 99th percentile [s]."""

    threads: int
    load: str
    p50: Quantile
    p99: Quantile


@dataclass(frozen=True, kw_only=True)
class Tail:
    """What was seen: the quantiles under each condition, and where the spread comes from."""

    conditions: tuple[Condition, ...]
    spread: Spread

    def dump(self) -> dict[str, Any]:
        """As JSON data; a bound that so few calls cannot give is null."""
        rows = [asdict(c) for c in self.conditions]
        for row in rows:
            for q in (row["p50"], row["p99"]):
                q["upper_s"] = q["upper_s"] if math.isfinite(q["upper_s"]) else None
        return {"conditions": rows, "spread": self.spread.dump()}


def repeated(
    load: Callable[[int], Session],
    inputs: Sequence[Arrays],
    *,
    threads: Sequence[int],
    background: Background | None = None,
    loadings: int = 3,
    calls: int | None = None,
    seed: int = 0,
    clock: Callable[[], float] = time.perf_counter,
) -> Tail:
    """Every input through every loading of the network, on each number of threads, with the
    machine idle and busy, again and again.

    load: threads -> the network, loaded anew.  background: None leaves the busy half out.  calls:
    under each condition; by default as many as bound the 99th percentile.  In every round all
    combinations come in a new random order, so that what drifts falls on all of them alike.
    """
    if not inputs or not threads or loadings < 1:
        raise InputError(
            "calls are repeated over inputs, threads and loadings: one or more of each"
        )
    each = len(inputs) * loadings
    rounds = max(2, -(-(calls or calls_needed(0.99)) // each))
    loads = [IDLE] if background is None else [IDLE, BUSY]
    sessions = [[load(n) for _ in range(loadings)] for n in threads]
    for row in sessions:
        for session in row:
            session.run(inputs[0])
    shape = (len(inputs), len(threads), len(loads), loadings, rounds)
    times = np.zeros(shape)
    generator = np.random.default_rng(seed)
    for r in range(rounds):
        for k, _ in enumerate(loads):
            with _loaded(background if k else None):
                _round(times[:, :, k, :, r], sessions, inputs, generator, clock)
    return _seen(times, threads, loads)


def _round(
    times: Array,
    sessions: Sequence[Sequence[Session]],
    inputs: Sequence[Arrays],
    generator: np.random.Generator,
    clock: Callable[[], float],
) -> None:
    """One call of each [inputs, threads, loadings], written into `times` in place."""
    order = list(itertools.product(*(range(n) for n in times.shape)))
    for at in generator.permutation(len(order)):
        i, t, s = order[at]
        session = sessions[t][s]
        start = clock()
        session.run(inputs[i])
        times[i, t, s] = clock() - start


def _seen(times: Array, threads: Sequence[int], loads: Sequence[str]) -> Tail:
    conditions = [
        Condition(
            threads=n,
            load=load,
            p50=quantile(times[:, t, k].ravel().tolist(), 0.5),
            p99=quantile(times[:, t, k].ravel().tolist(), 0.99),
        )
        for k, load in enumerate(loads)
        for t, n in enumerate(threads)
    ]
    factors: Mapping[str, Sequence[str]] = {
        "inputs": [str(i) for i in range(times.shape[0])],
        "threads": [str(n) for n in threads],
        "background load": list(loads),
        "loading": [str(i) for i in range(times.shape[3])],
    }
    return Tail(conditions=tuple(conditions), spread=spread(times, factors))


@contextmanager
def _loaded(background: Background | None) -> Iterator[None]:
    if background is None:
        yield
        return
    background.resume()
    try:
        yield
    finally:
        background.pause()


class BusyProcesses:
    """Processes that count for ever, one for each core; halted while the machine shall be idle."""

    def __init__(self, count: int) -> None:
        if os.name != "posix":
            raise InputError("background load needs signals that this system lacks")
        command = [sys.executable, "-c", "while True: pass"]
        self._processes = [subprocess.Popen(command) for _ in range(count)]
        self.pause()

    def resume(self) -> None:
        self._tell(signal.SIGCONT)

    def pause(self) -> None:
        self._tell(signal.SIGSTOP)

    def end(self) -> None:
        """Ends them; a halted process is ended too."""
        for p in self._processes:
            p.kill()
            p.wait()

    def _tell(self, what: signal.Signals) -> None:
        for p in self._processes:
            p.send_signal(what)


@contextmanager
def busy(count: int | None = None) -> Iterator[BusyProcesses]:
    """Busy processes, one for each core unless said otherwise; gone at the end."""
    found = BusyProcesses(count or os.cpu_count() or 1)
    try:
        yield found
    finally:
        found.end()
