"""Front: measured plans that no other measured plan beats, each with its optimality gap."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from allot.errors import ArtefactError

VERSION = 1
# what a solver says of a plan that it chose
_SAID = ("predicted", "gap")


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One measured plan.

    point: option index per choice of the space.  labels: site -> label, for reading.
    bills: "size" [bytes], "bitops", "latency" [s].  divergence: mean nats per search sample,
    with its 95 % interval.  metric: on the search samples, in [0, 1].  predicted: divergence the
    tables foretold.  gap: how far above the best possible (by the tables) it may lie, relative;
    both NaN for a plan that no solver chose, and null in files.
    latency_from: "table" or "measured".  recovery: name
    of the recovery it was measured after.
    """

    point: tuple[int, ...]
    labels: Mapping[str, str]
    bills: Mapping[str, float]
    divergence: float
    interval: tuple[float, float]
    metric: float
    predicted: float
    gap: float
    latency_from: str = "table"
    recovery: str = ""


@dataclass(frozen=True, kw_only=True)
class Front:
    """points: by ascending divergence.  original: the bills of the float original."""

    points: tuple[Measured, ...]
    original: Mapping[str, float]

    def dump(self) -> dict[str, Any]:
        data = asdict(self)
        for p in data["points"]:
            p |= {k: None if math.isnan(p[k]) else p[k] for k in _SAID}
        return {"version": VERSION, **data}


def load(data: Any) -> Front:
    """The front that `dump` wrote; raises ArtefactError for another version or damaged data."""
    if not isinstance(data, dict) or data.get("version") != VERSION:
        raise ArtefactError(f"not a front of version {VERSION}")
    try:
        points = tuple(
            Measured(
                **{
                    **p,
                    "point": tuple(p["point"]),
                    "interval": tuple(p["interval"]),
                    **{k: math.nan if p[k] is None else p[k] for k in _SAID},
                }
            )
            for p in data["points"]
        )
        return Front(points=points, original=data["original"])
    except (KeyError, TypeError) as e:
        raise ArtefactError(f"the front is damaged: {e!r}") from e


def unbeaten(points: Sequence[Measured], keys: Sequence[str]) -> tuple[Measured, ...]:
    """The points that no other point equals or beats in divergence and every bill of `keys`."""

    def cost(p: Measured) -> tuple[float, ...]:
        return (p.divergence, *(p.bills[k] for k in keys))

    ordered = sorted(points, key=cost)
    kept: list[Measured] = []
    for p in ordered:
        if not any(all(a <= b for a, b in zip(cost(q), cost(p), strict=True)) for q in kept):
            kept.append(p)
    return tuple(kept)
