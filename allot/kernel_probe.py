"""Kernel probe: every distinct layer timed once in the target, and what then never pays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from allot import billed, latency
from allot.dominated import dominated
from allot.errors import InputError
from allot.files import read_json, write_json
from allot.job import Struck
from allot.latency import LatencyTable
from allot.latency_model import Fit, table
from allot.layer_times import measure, needed
from allot.space import Space
from allot.target import Target, Workload


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


def never_paying(
    space: Space, *, target: Target, workload: Workload, times: LatencyTable
) -> tuple[Struck, ...]:
    """Options that are neither faster nor smaller and no slower: (site, label, why).

    Raises ArtefactError for times of another place, InputError where they lack a layer.  Seconds
    are those of the layers and of the tensors that cross between formats.
    """
    times = latency.fitting(times, target=target, workload=workload)
    alone = Fit(a=0.0, b=1.0, c=times.crossing_s, error=0.0, n=0)
    others = billed.tables(space, target, workload=workload, asked=("memory",))
    try:
        seconds = table(space, target, times, alone)
    except KeyError as e:
        raise InputError(
            f"the latency table has no layer like {e.args[0]}; measure it for this network and "
            "these axes: allot analyze TASK --latency-table FILE"
        ) from e
    reasons = dominated(space, seconds=seconds, others=list(others.values()))
    return tuple(
        (site, label, why) for site, found in reasons.items() for label, why in found.items()
    )
