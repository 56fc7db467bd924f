"""Latency: seconds of single layers, measured once per distinct shape in the target and frozen."""

from __future__ import annotations

import hashlib
import json
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from allot.bill import LayerState, states
from allot.errors import ArtefactError
from allot.memo import Memo
from allot.site import Layer
from allot.space import Space
from allot.target import Session, Target, Workload

VERSION = 1
_MOST = 150
_SECONDS = 0.06


@dataclass(frozen=True, kw_only=True, order=True)
class Signature:
    """A layer as far as its time depends on it.

    depth: input channels per group of a grouped convolution, 0 for a dense one.  kernel, stride,
    padding, dilation: of a convolution.  size: of the input behind the channels [h, w]; of a
    linear layer, what stands before them.  integer: computes in int8, reads and writes uint8.
    """

    op: str
    ins: int
    outs: int
    depth: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...]
    dilation: tuple[int, ...]
    size: tuple[int, ...]
    integer: bool

    @property
    def family(self) -> Signature:
        """The same at any width."""
        return replace(self, ins=0, outs=0)

    @property
    def key(self) -> str:
        return json.dumps(list(asdict(self).values()), separators=(",", ":"))


@dataclass(frozen=True, kw_only=True)
class Entry:
    """Median seconds per call and the distance between the quartiles, from n calls."""

    median_s: float
    spread_s: float
    n: int


def signature(layer: Layer, *, ins: int, outs: int, integer: bool) -> Signature:
    """The signature of a layer narrowed to `ins` and `outs` channels."""
    linear = layer.op == "linear"
    return Signature(
        op=layer.op,
        ins=ins,
        outs=outs,
        depth=0 if layer.groups == 1 else layer.weight[1],
        kernel=() if linear else tuple(layer.weight[2:]),
        stride=tuple(layer.stride),
        padding=tuple(layer.padding),
        dilation=tuple(layer.dilation),
        size=tuple(layer.in_shape[:-1] if linear else layer.in_shape[1:]),
        integer=integer,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class LatencyTable:
    """Frozen measurements of one runtime on one device for one workload."""

    device: str
    runtime: str
    batch: int
    threads: int
    entries: Mapping[Signature, Entry]

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self._data, sort_keys=True).encode()).hexdigest()

    @property
    def _data(self) -> dict[str, Any]:
        rows = [[asdict(s), asdict(e)] for s, e in sorted(self.entries.items())]
        head = {"device": self.device, "runtime": self.runtime}
        return {**head, "batch": self.batch, "threads": self.threads, "entries": rows}

    def dump(self) -> dict[str, Any]:
        """As JSON data, with the hash of its content."""
        return {"version": VERSION, "sha256": self.digest, **self._data}

    def seconds(self, s: Signature) -> float:
        """Seconds of a layer, bilinear in its widths between the measured ones.

        Raises KeyError where it lies outside what was measured of its family.
        """
        ins, outs, times = self._grids[s.family]
        if not (ins[0] <= s.ins <= ins[-1] and outs[0] <= s.outs <= outs[-1]):
            raise KeyError(s)
        if s.depth:
            return float(np.interp(s.ins, ins, times))
        rows = [float(np.interp(s.outs, outs, row)) for row in times]
        return float(np.interp(s.ins, ins, rows))

    @cached_property
    def _grids(self) -> dict[Signature, tuple[list[int], list[int], Any]]:
        families: dict[Signature, list[Signature]] = {}
        for s in sorted(self.entries):
            families.setdefault(s.family, []).append(s)
        return {f: self._grid(group) for f, group in families.items()}

    def _grid(self, group: Sequence[Signature]) -> tuple[list[int], list[int], Any]:
        ins, outs = sorted({s.ins for s in group}), sorted({s.outs for s in group})
        if group[0].depth:
            return ins, outs, np.array([self.entries[s].median_s for s in group])
        at = {(s.ins, s.outs): self.entries[s].median_s for s in group}
        return ins, outs, np.array([[at[i, o] for o in outs] for i in ins])


def load(data: Any) -> LatencyTable:
    """The table that `dump` wrote; raises ArtefactError for another version or changed numbers."""
    if not isinstance(data, dict) or data.get("version") != VERSION:
        raise ArtefactError(f"not a latency table of version {VERSION}")
    try:
        entries = {_signature(s): Entry(**e) for s, e in data["entries"]}
        table = LatencyTable(
            device=data["device"],
            runtime=data["runtime"],
            batch=data["batch"],
            threads=data["threads"],
            entries=entries,
        )
    except (KeyError, TypeError, ValueError) as e:
        raise ArtefactError(f"the latency table is damaged: {e!r}") from e
    if table.digest != data.get("sha256"):
        raise ArtefactError("the latency table was changed after it was measured: its hash differs")
    return table


def _signature(data: Mapping[str, Any]) -> Signature:
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
    return Signature(**values)


def device() -> str:
    """The processor's name."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [x.partition(":")[2].strip() for x in lines if x.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def of_state(s: LayerState, target: Target) -> Signature:
    """The signature of a layer in a state of the bill, which must not be gone."""
    integer = max(target.computes(s.weight_bits, s.input_bits)) <= 8
    return signature(s.thinned, ins=s.ins, outs=s.outs, integer=integer)


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
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> LatencyTable:
    """Every signature timed alone in the target; what the memo knows is not measured again."""
    memo = memo or Memo()
    where = f"latency/{device()}/{target.version()}/{workload.batch}/{workload.threads}"
    entries = {}
    for i, s in enumerate(signatures):
        found = memo.get(f"{where}/{s.key}", lambda s=s: asdict(_time(s, target, workload)))  # type: ignore[misc]
        entries[s] = Entry(**found)
        progress(i + 1, len(signatures))
    return LatencyTable(
        device=device(),
        runtime=target.version(),
        batch=workload.batch,
        threads=workload.threads,
        entries=entries,
    )


def _time(s: Signature, target: Target, workload: Workload) -> Entry:
    from allot.one_layer import graph, input_of

    session: Session = target.open(graph(s), workload=workload)
    inputs, samples = {"input": input_of(s, workload.batch)}, list[float]()
    now = time.process_time if workload.threads == 1 else time.perf_counter
    for _ in range(2):
        session.run(inputs)
    end = time.perf_counter() + _SECONDS
    while len(samples) < 5 or (time.perf_counter() < end and len(samples) < 100):
        start = now()
        session.run(inputs)
        samples.append(now() - start)
    low, middle, high = np.quantile(samples, [0.25, 0.5, 0.75]).tolist()
    return Entry(median_s=middle, spread_s=high - low, n=len(samples))
