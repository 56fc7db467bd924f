"""Kernel probe: every distinct layer timed once in the target, and what then never pays."""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from allot import billed, latency
from allot.dominated import dominated
from allot.errors import InputError
from allot.files import read_json, write_json
from allot.job import Struck
from allot.latency import LatencyTable
from allot.latency_fit import Fit
from allot.latency_model import table
from allot.layer_times import measure, needed
from allot.memo import Memo
from allot.space import Space
from allot.target import Target, Workload

BILLS = ("size", "bitops", "memory")


def probed(
    space: Space,
    *,
    target: Target,
    workload: Workload,
    path: Path,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> LatencyTable:
    """The table of a file, with what the space needs beyond it measured and written there.

    Raises ArtefactError for a file that was changed, or measured in another place (see
    `latency.fitting`); that file is left as it is.
    """
    known = None
    if path.exists():
        known = latency.fitting(latency.load(read_json(path)), target=target, workload=workload)
    found = measure(
        needed(space, target), target=target, workload=workload, known=known, progress=progress
    )
    if known is None or found.entries.keys() != known.entries.keys():
        write_json(path, found.dump())
    return found


def alone(
    space: Space,
    target: Target,
    workload: Workload,
    memo: Memo,
    progress: Callable[[float], None] = lambda share: None,
) -> LatencyTable:
    """What a job measures at its start; the memo keeps it, so that it is the same when resumed."""
    return measure(
        needed(space, target), target=target, workload=workload, memo=memo,
        progress=lambda done, total: progress(done / total),
    )  # fmt: skip


def never_paying(
    space: Space,
    *,
    target: Target,
    workload: Workload,
    times: LatencyTable,
    bills: Collection[str] = BILLS,
) -> tuple[Struck, ...]:
    """Options that are neither faster nor smaller and no slower: (site, label, why).

    bills: in which smaller counts.  Seconds are those of the layers and of the tensors that cross
    between formats.  Raises ArtefactError for times of another place, InputError where they lack a
    layer.
    """
    times = latency.fitting(times, target=target, workload=workload)
    there, back = times.crossing_s, times.crossing_s
    plain = Fit(a=0.0, b=1.0, vain=there + back, leaving=back, error=0.0, n=0)
    every = billed.tables(space, target, workload=workload, asked=bills)
    others = [t for name, t in every.items() if name in bills]
    try:
        seconds = table(space, target, times, plain)
    except KeyError as e:
        raise InputError(
            f"the latency table has no layer like {e.args[0]}; measure it for this network and "
            "these axes: allot analyze TASK --latency-table FILE"
        ) from e
    reasons = dominated(space, seconds=seconds, others=others)
    return tuple(
        (site, label, why) for site, found in reasons.items() for label, why in found.items()
    )
