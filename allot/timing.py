"""Timing: loaded networks run in turn on the same inputs, compared by ratios with intervals."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np

from allot.target import Arrays, Session


@runtime_checkable
class Stopwatch(Protocol):
    """A session that times a call itself, as one on a device must, which runs on by itself."""

    def call_seconds(self, inputs: Arrays) -> float: ...


def taken(session: Session, inputs: Arrays, *, clock: Callable[[], float]) -> float:
    """Seconds of one call: by the session's own stopwatch where it has one, else by the clock."""
    if isinstance(session, Stopwatch):
        return session.call_seconds(inputs)
    start = clock()
    session.run(inputs)
    return clock() - start


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds per call. samples: one per round; clock: "cpu" (of this process), "wall" or "device"
    (the session's own)."""

    samples: tuple[float, ...]
    clock: str

    @property
    def median_s(self) -> float:
        return float(np.median(self.samples))

    @property
    def q25_s(self) -> float:
        return float(np.quantile(self.samples, 0.25))

    @property
    def q75_s(self) -> float:
        return float(np.quantile(self.samples, 0.75))

    @property
    def n(self) -> int:
        return len(self.samples)


@dataclass(frozen=True, kw_only=True)
class Ratio:
    """Median of one timing over that of another, with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float
    n: int


def compare(
    sessions: Mapping[str, Session],
    inputs: Arrays,
    *,
    rounds: int = 30,
    warmup: int = 3,
    threads: int = 1,
    settle: int = 0,
    clock: Callable[[], float] | None = None,
) -> dict[str, Timing]:
    """Name -> timing of sessions that take turns, so that a busy spell slows all of them alike.

    Every round runs each session once, each round starting with another one.  On one thread the
    process's CPU time is taken, which other processes do not lengthen, otherwise wall time;
    `clock` (seconds) overrules both; a session that times itself is asked instead.
    settle: calls in every turn before the one that is timed, so that it finds its own weights and
    code in the caches, not those of the session before.
    """
    kind = "cpu" if threads == 1 else "wall"
    now = clock or (time.process_time if threads == 1 else time.perf_counter)
    names = list(sessions)
    for name in names:
        for _ in range(warmup):
            sessions[name].run(inputs)
    samples: dict[str, list[float]] = {n: [] for n in names}
    for r in range(rounds):
        first = r % len(names)
        for name in names[first:] + names[:first]:
            for _ in range(settle):
                sessions[name].run(inputs)
            samples[name].append(taken(sessions[name], inputs, clock=now))
    own = {n: "device" if isinstance(sessions[n], Stopwatch) else kind for n in names}
    return {n: Timing(samples=tuple(s), clock=own[n]) for n, s in samples.items()}


def ratio(a: Timing, b: Timing, *, draws: int = 2000, seed: int = 0) -> Ratio:
    """median(a) / median(b) of timings taken in the same rounds.

    The interval is the percentile bootstrap over rounds (Efron 1979), a and b drawn together.
    """
    x, y = np.asarray(a.samples), np.asarray(b.samples)
    pick = np.random.default_rng(seed).integers(0, len(x), size=(draws, len(x)))
    found = np.median(x[pick], axis=1) / np.median(y[pick], axis=1)
    low, high = np.quantile(found, [0.025, 0.975])
    return Ratio(value=a.median_s / b.median_s, low=float(low), high=float(high), n=len(x))


def paired(a: Timing, b: Timing, *, draws: int = 2000, seed: int = 0) -> Ratio:
    """Median over rounds of a's seconds over b's; interval as for `ratio`.

    What slows both of a round alike leaves it as it is.
    """
    found = np.asarray(a.samples) / np.asarray(b.samples)
    pick = np.random.default_rng(seed).integers(0, len(found), size=(draws, len(found)))
    low, high = np.quantile(np.median(found[pick], axis=1), [0.025, 0.975])
    return Ratio(value=float(np.median(found)), low=float(low), high=float(high), n=len(found))
