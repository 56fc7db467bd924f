"""Latency: seconds of single layers by shape and format, as a frozen table that can be reused."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from allot.bill import LayerState
from allot.errors import ArtefactError
from allot.processor import device, instructions
from allot.site import Layer
from allot.target import Target, Workload

VERSION = 2


@dataclass(frozen=True, kw_only=True, order=True)
class Signature:
    """A layer as far as its time depends on it.

    depth: input channels per group of a grouped convolution, 0 for a dense one.  kernel, stride,
    padding, dilation: of a convolution.  size: of the input behind the channels [h, w]; of a
    linear layer, what stands before them.  integer: computes in int8, reads and writes uint8.
    block: (bits, group, 1 where the input is put on integers too) of a linear from integers in
    groups, which reads and writes floats; else ().
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
    block: tuple[int, ...] = ()

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


def signature(
    layer: Layer, *, ins: int, outs: int, integer: bool, block: tuple[int, ...] = ()
) -> Signature:
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
        block=block,
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class LatencyTable:
    """Frozen measurements of one runtime on one device for one workload.

    target, runtime: its name, and the library with its version.  instructions: of the device,
    those that kernels are chosen by.  crossing_s: seconds per element of a tensor that goes from
    floats to codes or back.
    """

    device: str
    runtime: str
    batch: int
    threads: int
    entries: Mapping[Signature, Entry]
    target: str = ""
    instructions: tuple[str, ...] = ()
    crossing_s: float = 0.0

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(json.dumps(self._data, sort_keys=True).encode()).hexdigest()

    @property
    def _data(self) -> dict[str, Any]:
        return {
            "target": self.target,
            "runtime": self.runtime,
            "device": self.device,
            "instructions": list(self.instructions),
            "batch": self.batch,
            "threads": self.threads,
            "crossing_s": self.crossing_s,
            "entries": [asdict(s) | asdict(e) for s, e in sorted(self.entries.items())],
        }

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
        table = LatencyTable(
            device=data["device"],
            runtime=data["runtime"],
            batch=data["batch"],
            threads=data["threads"],
            entries=dict(map(_row, data["entries"])),
            target=data["target"],
            instructions=tuple(data["instructions"]),
            crossing_s=data["crossing_s"],
        )
    except (KeyError, TypeError, ValueError) as e:
        raise ArtefactError(f"the latency table is damaged: {e!r}") from e
    if table.digest != data.get("sha256"):
        raise ArtefactError("the latency table was changed after it was measured: its hash differs")
    return table


def _row(data: Mapping[str, Any]) -> tuple[Signature, Entry]:
    """Signature and times of a line of the file."""
    values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
    times = {k: values.pop(k) for k in ("median_s", "spread_s", "n")}
    return Signature(**values), Entry(**times)


def fitting(table: LatencyTable, *, target: Target, workload: Workload) -> LatencyTable:
    """The table if it was measured here: in this runtime, on such a device, for this workload.

    Raises ArtefactError that says what differs: times of another machine are no times of this one.
    """
    lacks = [x for x in table.instructions if x not in instructions()]
    here = f"{device()}, {target.version()}, batch {workload.batch}, {workload.threads} threads"
    there = f"{table.device}, {table.runtime}, batch {table.batch}, {table.threads} threads"
    anew = "; measure anew by naming a file that does not exist yet"
    if lacks:
        raise ArtefactError(
            f"the latency table was measured on a device with {', '.join(lacks)}, which this one "
            f"lacks{anew}"
        )
    if here != there or table.target not in ("", target.name):
        raise ArtefactError(f"the latency table is of {there}; here it is {here}{anew}")
    return table


def of_state(s: LayerState, target: Target) -> Signature:
    """The signature of a layer in a state of the bill, which must not be gone."""
    integer = max(target.computes(s.weight_bits, s.input_bits)) <= 8
    block = (*s.block, int(integer)) if s.block else ()
    return signature(s.thinned, ins=s.ins, outs=s.outs, integer=integer and not block, block=block)
