"""Segments: which steps compute a span and which take its result again, by dynamic programming."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from allot.errors import InputError
from allot.sampling.history import Entry

# [steps, steps + 1]; entry (s, e): of step s leading the steps s + 1 to e - 1
Costs = NDArray[np.float64]


def segments(costs: Costs, *, count: int, least: int = 1, most: int | None = None) -> list[int]:
    """Where the segments of least total cost start; the first at step 0.

    costs: [steps, steps + 1], of a segment from s up to e (excluded).  count: of segments.  least,
    most: bounds of their length.  Exact (dynamic programming over the ends; CacheQuant, Liu et al.
    2025, has it for lengths of ceil(N / 2) to 2 N).  Raises InputError where no such
    segments exist.
    """
    steps = len(costs)
    most = steps if most is None else most
    best = np.full((count + 1, steps + 1), math.inf)
    best[0, 0] = 0.0
    start = np.zeros((count + 1, steps + 1), dtype=int)
    for k in range(1, count + 1):
        for e in range(1, steps + 1):
            for s in range(max(0, e - most), e - least + 1):
                total = best[k - 1, s] + costs[s, e]
                if total < best[k, e]:
                    best[k, e], start[k, e] = total, s
    if not math.isfinite(best[count, steps]):
        raise InputError(
            f"{steps} steps do not fall into {count} segments of {least} to {most}; between "
            f"{-(-steps // most)} and {steps // max(1, least)} segments would do"
        )
    found, end = [], steps
    for k in range(count, 0, -1):
        end = int(start[k, end])
        found.append(end)
    return found[::-1]


def reuse_costs(
    leaders: Sequence[Entry], truth: Sequence[Entry], *, relative: bool = False
) -> Costs:
    """What it costs to hold a result: sum over the steps t of a segment of |truth_t - leader_s|.

    leaders, truth: entries of all steps.  Where the leaders come from a quantized network and the
    truth from the original, the cost counts both errors, and a segment of length 1 costs what
    quantization alone does.  L1 norms, mean over samples (CacheQuant); relative: each step's
    divided by that of its truth, without which steps of large norm decide alone.
    """
    steps = len(truth)
    costs = np.full((steps, steps + 1), math.inf)
    for s in range(steps):
        total = 0.0
        for t in range(s, steps):
            total += _distance(leaders[s], truth[t], relative=relative)
            costs[s, t + 1] = total
    return costs


def _distance(a: Entry, b: Entry, *, relative: bool) -> float:
    apart = sum(
        float((x - y).abs().double().sum()) for x, y in zip(a.values, b.values, strict=True)
    )
    whole = sum(float(y.abs().double().sum()) for y in b.values)
    size = sum(y[0].numel() for y in b.values) * len(b.values[0])
    return apart / max(whole, torch.finfo().tiny) if relative else apart / size
