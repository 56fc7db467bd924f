"""Lengths: which axes of an exported file are free, within what, and why others are not."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from allot.task import Free, Inputs

# where a file says it
_KEY = "allot.lengths"
# (axis, least, most or None)
Range = tuple[int, int, int | None]


@dataclass(frozen=True, kw_only=True)
class Lengths:
    """What a file says of its axes.

    fixed: why a length that was to be free is the example's, "" where none is.  ranges: of free
    axes that do not take every length, by input; a network that asks for the length of what it is
    given is exported on one branch alone.
    """

    fixed: str = ""
    ranges: Mapping[str, tuple[Range, ...]] = field(default_factory=dict)

    def dump(self) -> dict[str, str]:
        """As metadata of a file, nothing where there is nothing to say."""
        if not self.fixed and not self.ranges:
            return {}
        return {_KEY: json.dumps({"fixed": self.fixed, "ranges": dict(self.ranges)})}


def lengths(proto: Any) -> Lengths:
    """What a parsed ONNX file (onnx.ModelProto) says of its axes."""
    said = next((json.loads(p.value) for p in proto.metadata_props if p.key == _KEY), None)
    if said is None:
        return Lengths()
    ranges = {k: tuple((a, lo, hi) for a, lo, hi in v) for k, v in said["ranges"].items()}
    return Lengths(fixed=said["fixed"], ranges=ranges)


def possible(example: Inputs, wanted: Free) -> tuple[dict[str, tuple[int, ...]], str]:
    """Axes that can be asked for, and why others cannot: an example of length one fixes it."""
    given = {"input": example} if isinstance(example, Tensor) else example
    found = {k: tuple(a for a in axes if given[k].shape[a] > 1) for k, axes in wanted.items()}
    short = [k for k, axes in wanted.items() if len(found[k]) < len(axes)]
    why = f"{short[0]} has length 1 in the example" if short else ""
    return {k: axes for k, axes in found.items() if axes}, why


def asked(example: Inputs, free: Free) -> Any:
    """What is free of every input, its batch among it, as torch.export takes it."""
    dynamic = torch.export.Dim.DYNAMIC
    if isinstance(example, Tensor):
        return (dict.fromkeys((0, *free.get("input", ())), dynamic),)
    return {k: dict.fromkeys((0, *free.get(k, ())), dynamic) for k in example}


def ranges(program: Any) -> dict[str, tuple[Range, ...]]:
    """Of every input of an exported program the free axes that do not take every length."""
    known = {str(k): v for k, v in program.exported_program.range_constraints.items()}
    found: dict[str, tuple[Range, ...]] = {}
    for x in program.model.graph.inputs:
        limits = ((axis, known.get(str(d))) for axis, d in enumerate(x.shape))
        some = tuple(
            (axis, int(r.lower), _whole(r.upper))
            for axis, r in limits
            if r is not None and (r.lower > 2 or _whole(r.upper) is not None)
        )
        found |= {x.name: some} if some else {}
    return found


def _whole(bound: Any) -> int | None:
    """A bound as a number, None for one without end (sympy's, torch's, or 2^63 - 1)."""
    end = bool(getattr(bound, "is_infinite", False)) or str(bound) == "int_oo"
    return None if end or int(bound) >= 2**62 else int(bound)
