"""Store: every point of a space with its per-sample losses, in one file of 16-bit numbers."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from allot import part
from allot.errors import ArtefactError, InputError, PlanError
from allot.files import write_bytes
from allot.measure import Loss
from allot.site import Graph, Layer, Site, Touch
from allot.space import Choice, Point, Space

VERSION = 1
# divergences are stored as their logarithm: 65 535 equal steps between these, and 0 apart
LEAST, MOST = 1e-12, 1e6
_STEP = np.log(MOST / LEAST) / 65534
_VALUES = np.concatenate([[0.0], LEAST * np.exp(_STEP * np.arange(65535))])

Codes = NDArray[np.uint16]
Counts = NDArray[np.uint8]
Floats = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True, eq=False)
class Measured:
    """Losses of every point, in the order of np.ndindex(counts), on one set of samples.

    codes: divergences [points, samples].  hits: right predictions of each sample
    [points, samples], of `units` that it has.  original: the same of the original [samples].
    """

    codes: Codes
    hits: Counts
    original: Counts
    units: int

    @cached_property
    def means(self) -> Floats:
        """Mean divergence of every point [nats]: [points]."""
        return np.array([divergences(row).mean() for row in self.codes])

    @cached_property
    def scores(self) -> Floats:
        """Mean metric of every point: [points]."""
        return self.hits.mean(axis=1, dtype=np.float64) / self.units

    @property
    def original_score(self) -> float:
        return float(self.original.mean() / self.units)

    def loss(self, at: int, samples: int) -> Loss:
        """The loss of a point on the first samples."""
        found = divergences(self.codes[at, :samples])
        scores = self.hits[at, :samples] / self.units
        return Loss(divergences=tuple(found.tolist()), scores=tuple(scores.tolist()))


@dataclass(frozen=True, kw_only=True, eq=False)
class Enumeration:
    """A space with every point measured.

    family, network, variant: which.  weights: digest of the network's.  recovery: name of what
    repaired every point.  bill: "size" or "bitops".  costs: that of every point [points].
    calibration: samples that recovery saw.
    """

    family: str
    network: str
    variant: str
    weights: str
    recovery: str
    bill: str
    space: Space
    costs: Floats
    search: Measured
    held_out: Measured
    calibration: int

    def index(self, point: Point) -> int:
        """Where a point stands; raises InputError for one that is none of the space."""
        try:
            return int(np.ravel_multi_index(point, self.space.counts))
        except ValueError as e:
            raise InputError(f"{point} is no point of a space of {self.space.counts}") from e

    def point(self, index: int) -> Point:
        return tuple(int(i) for i in np.unravel_index(index, self.space.counts))


def encoded(x: Floats) -> Codes:
    """Divergences as 16-bit codes of their logarithm, relative error below 4e-4.

    Below 1e-12 they become 0.  Raises InputError for what is not finite, negative or above 1e6.
    """
    if not bool(np.all((x >= 0) & (x <= MOST))):
        raise InputError(f"a divergence lies outside 0 to {MOST:g} nats or is NaN")
    whole = np.rint(np.log(np.maximum(x, LEAST) / LEAST) / _STEP).astype(np.int64) + 1
    return np.where(x < LEAST, 0, whole).astype(np.uint16)


def divergences(codes: Codes) -> Floats:
    """Divergences [nats] of codes, the same shape."""
    found: Floats = _VALUES[codes]
    return found


def write(e: Enumeration, path: Path) -> None:
    """The file, whole or not at all."""
    head = {
        "version": VERSION,
        "family": e.family,
        "network": e.network,
        "variant": e.variant,
        "weights": e.weights,
        "recovery": e.recovery,
        "bill": e.bill,
        "calibration": e.calibration,
        "units": e.search.units,
        "samples": [e.search.codes.shape[1], e.held_out.codes.shape[1]],
        "space": dump_space(e.space),
    }
    arrays: dict[str, NDArray[Any]] = {
        "head": np.frombuffer(json.dumps(head).encode(), dtype=np.uint8),
        "costs": e.costs,
    }
    for name, m in (("search", e.search), ("held_out", e.held_out)):
        arrays |= {
            f"{name}_codes": m.codes,
            f"{name}_hits": np.packbits(m.hits, axis=1) if m.units == 1 else m.hits,
            f"{name}_original": m.original,
        }
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]
    write_bytes(path, buffer.getvalue())


def read(path: Path) -> Enumeration:
    """The enumeration that `write` wrote; raises ArtefactError where it is absent or damaged."""
    if not path.is_file():
        raise ArtefactError(f"{path} is missing; python -m benchmarks.search.enumerate makes it")
    try:
        with np.load(path, allow_pickle=False) as arrays:
            head = json.loads(arrays["head"].tobytes())
            found = {k: arrays[k] for k in arrays.files if k != "head"}
        if head["version"] != VERSION:
            raise ArtefactError(f"{path} has version {head['version']}, this is {VERSION}")
        return _enumeration(head, found)
    except (ValueError, OSError, KeyError, TypeError, zipfile.BadZipFile, PlanError) as e:
        raise ArtefactError(f"{path} is damaged or of other parts than these: {e}") from e


def _enumeration(head: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> Enumeration:
    sets = [
        _measured(arrays, name, head["units"], n)
        for name, n in zip(("search", "held_out"), head["samples"], strict=True)
    ]
    words = ("family", "network", "variant", "weights", "recovery", "bill", "calibration")
    return Enumeration(
        **{k: head[k] for k in words},
        space=load_space(head["space"]),
        costs=arrays["costs"],
        search=sets[0],
        held_out=sets[1],
    )


def _measured(arrays: Mapping[str, NDArray[Any]], name: str, units: int, n: int) -> Measured:
    hits = arrays[f"{name}_hits"]
    return Measured(
        codes=arrays[f"{name}_codes"],
        hits=np.unpackbits(hits, axis=1, count=n) if units == 1 else hits,
        original=arrays[f"{name}_original"],
        units=units,
    )


def dump_space(space: Space) -> dict[str, Any]:
    """A space as JSON data; `load_space(dump_space(space)) == space`."""
    choices = [
        {
            "site": c.site,
            "tied": list(c.tied),
            "options": [o.dump() for o in c.options],
            "struck": [list(s) for s in c.struck],
        }
        for c in space.choices
    ]
    return {"graph": asdict(space.graph), "choices": choices}


def load_space(data: Mapping[str, Any]) -> Space:
    """The space that `dump_space` wrote."""
    g = data["graph"]
    graph = Graph(
        layers=tuple(Layer(**_tuples(x)) for x in g["layers"]),
        sites=_sites(g["sites"]),
        norms=tuple(g["norms"]),
        order=tuple((name, event) for name, event in g["order"]),
        unknown=tuple((name, kind, n) for name, kind, n in g["unknown"]),
        loose=g["loose"],
        results=_sites(g.get("results", ())),
    )
    choices = tuple(
        Choice(
            site=c["site"],
            tied=tuple(c["tied"]),
            options=tuple(part.load(o) for o in c["options"]),
            struck=tuple((label, why) for label, why in c["struck"]),
        )
        for c in data["choices"]
    )
    return Space(graph=graph, choices=choices)


def _sites(data: Sequence[Mapping[str, Any]]) -> tuple[Site, ...]:
    return tuple(
        Site(**{**s, "touches": tuple(Touch(**_tuples(t)) for t in s["touches"])})
        for s in map(_tuples, data)
    )


def _tuples(data: Mapping[str, Any]) -> dict[str, Any]:
    """The same with every list a tuple."""
    return {k: tuple(v) if isinstance(v, list) else v for k, v in data.items()}
