"""Layer times: which layers to measure alone so that every plan lies between them, and how long."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allot.bill import states
from allot.latency import Entry, LatencyTable, Signature, of_state
from allot.memo import Memo
from allot.one_layer import graph, input_of, there_and_back
from allot.processor import device, instructions
from allot.space import Space
from allot.target import Target, Workload
from allot.timing import taken

_MOST = 150
_SECONDS, _TOGETHER = 0.06, 16


def needed(space: Space, target: Target, *, most: int = _MOST) -> tuple[Signature, ...]:
    """Signatures to measure so that every layer of every plan lies between measured ones.

    At most about `most`: fewer widths per family are measured until they fit (never below two).
    """
    found = [s for x in space.graph.layers for s in states(space, x)[1].values() if not s.gone]
    wanted = {of_state(s, target) for s in found}
    for widths in (8, 6, 5, 4, 3, 2):
        fewer = _thinned(wanted, widths)
        if len(fewer) <= most:
            break
    return tuple(sorted(fewer))


def _thinned(wanted: set[Signature], widths: int) -> set[Signature]:
    families: dict[Signature, list[Signature]] = {}
    for s in wanted:
        families.setdefault(s.family, []).append(s)
    found: set[Signature] = set()
    for group in families.values():
        ins = _picked({s.ins for s in group}, widths)
        outs = _picked({s.outs for s in group}, widths)
        if group[0].depth:
            found |= {s for s in group if s.ins in ins}
        else:
            found |= {replace(group[0], ins=i, outs=o) for i in ins for o in outs}
    return found


def _picked(values: set[int], most: int) -> list[int]:
    ordered = sorted(values)
    places = np.linspace(0, len(ordered) - 1, min(most, len(ordered)))
    return sorted({ordered[round(i)] for i in places})


def measure(
    signatures: Sequence[Signature],
    *,
    target: Target,
    workload: Workload,
    memo: Memo | None = None,
    known: LatencyTable | None = None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> LatencyTable:
    """Every signature timed alone in the target, several taking turns.

    What the memo or a known table (which must be of here, see `latency.fitting`) has is not
    measured again; whatever else the table knows stays in it.
    """
    memo = memo or Memo()
    where = f"latency/{device()}/{target.version()}/{workload.batch}/{workload.threads}"
    entries = dict(known.entries) if known else {}

    def crossing() -> float:
        return _crossing(target, workload)

    names = {s: f"{where}/{s.key}" for s in signatures if s not in entries}
    new = [s for s, name in names.items() if name not in memo]
    for i in range(0, len(new), _TOGETHER):
        group = new[i : i + _TOGETHER]
        files = [(graph(s), input_of(s, workload.batch)) for s in group]
        for s, entry in zip(group, _timed(files, target, workload), strict=True):
            memo.put(names[s], asdict(entry))
            progress(len(signatures) - len(new) + i + group.index(s) + 1, len(signatures))
    entries |= {s: Entry(**memo.get(name, dict)) for s, name in names.items()}
    return LatencyTable(
        device=device(),
        runtime=target.version(),
        batch=workload.batch,
        threads=workload.threads,
        entries=entries,
        target=target.name,
        instructions=instructions(),
        crossing_s=known.crossing_s if known else memo.get(f"{where}/crossing", crossing),
    )


def _crossing(target: Target, workload: Workload) -> float:
    """Seconds per element of going from floats to codes or back, half of both."""
    file = there_and_back()
    return _timed([file], target, workload)[0].median_s / (2 * file[1].size)


def _timed(
    files: Sequence[tuple[bytes, NDArray[Any]]], target: Target, workload: Workload
) -> list[Entry]:
    """Times of files, each on its own input; a busy spell slows all of them alike.

    Before a call that is timed comes one that is not: inside a network, too, a layer finds its
    input in the caches.
    """
    sessions = [(target.open(f, workload=workload), {"input": x}) for f, x in files]
    now = time.process_time if workload.threads == 1 else time.perf_counter
    samples: list[list[float]] = [[] for _ in sessions]
    end = math.inf
    while len(samples[0]) < 5 or (time.perf_counter() < end and len(samples[0]) < 100):
        for (session, inputs), taking in zip(sessions, samples, strict=True):
            session.run(inputs)
            taking.append(taken(session, inputs, clock=now))
        # the first round is for the kernels that a runtime makes at the first call
        if end == math.inf:
            end = time.perf_counter() + _SECONDS * len(sessions)
            samples = [[] for _ in sessions]
    return [_entry(x) for x in samples]


def _entry(samples: Sequence[float]) -> Entry:
    low, middle, high = np.quantile(samples, [0.25, 0.5, 0.75]).tolist()
    return Entry(median_s=middle, spread_s=high - low, n=len(samples))
