"""Timing: loaded networks run in turn on the same inputs, compared by ratios with intervals."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from allot.target import Arrays, Session


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds per call. samples: one per round; clock: "cpu" (of this process) or "wall"."""

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
    clock: Callable[[], float] | None = None,
) -> dict[str, Timing]:
    """Name -> timing of sessions that take turns, so that a busy spell slows all of them alike.

    Every round runs each session once, each round starting with another one.  On one thread the
    process's CPU time is taken, which other processes do not lengthen, otherwise wall time;
    `clock` (seconds) overrules both.
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
            start = now()
            sessions[name].run(inputs)
            samples[name].append(now() - start)
    return {n: Timing(samples=tuple(s), clock=kind) for n, s in samples.items()}


def ratio(a: Timing, b: Timing, *, draws: int = 2000, seed: int = 0) -> Ratio:
    """median(a) / median(b) of timings taken in the same rounds.

    The interval is the percentile bootstrap over rounds (Efron 1979), a and b drawn together.
    """
    x, y = np.asarray(a.samples), np.asarray(b.samples)
    pick = np.random.default_rng(seed).integers(0, len(x), size=(draws, len(x)))
    found = np.median(x[pick], axis=1) / np.median(y[pick], axis=1)
    low, high = np.quantile(found, [0.025, 0.975])
    return Ratio(value=a.median_s / b.median_s, low=float(low), high=float(high), n=len(x))
