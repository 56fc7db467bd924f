"""Judged: what a scheme made of a network, on data that no pass has seen."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from allot.scheme import Quantized, Scheme, quantized
from allot.sweep import outputs
from allot.task import Data, Task


@dataclass(frozen=True, kw_only=True, eq=False)
class Judged:
    """kl: per sample, to the original [nats].  gained: of the metric per sample, in points (less
    than 0 where it was lost).  bits: per weight, scales counted.  seconds: of the passes."""

    kl: NDArray[np.float64]
    gained: NDArray[np.float64]
    bits: float
    seconds: float

    @property
    def mean(self) -> float:
        return float(self.kl.mean())

    @property
    def lost(self) -> float:
        """Points of the metric."""
        return -float(self.gained.mean())


def judged(task: Task, scheme: Scheme, data: Data, *, seed: int = 0) -> Judged:
    """A scheme applied to the task's network, on the data (the original's own, unchanged)."""
    start = time.perf_counter()
    made = quantized(task, scheme, seed=seed)
    seconds = time.perf_counter() - start
    return on(task, made, data, seconds=seconds)


def on(task: Task, made: Quantized, data: Data, *, seconds: float = 0.0) -> Judged:
    """What was made, on the data."""
    original = outputs(task, task.model, data, batch=250)
    found = outputs(made.task, made.network(), data, batch=250)
    assert data.labels is not None
    scores = [task.score(o, data.labels).double().numpy() for o in (original, found)]
    return Judged(
        kl=task.divergence(original, found).double().numpy(),
        gained=100 * (scores[1] - scores[0]),
        bits=made.weight_bits,
        seconds=seconds,
    )
