"""ReportData: what a run folder says, read once and tolerant of what is not there."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from allot.errors import ArtefactError

VERSION = 1
NOISE = "noise.json"
SAMPLES = "samples.json"
Row = Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class ReportData:
    """The contents of a run's summary.json, front.json, certificate.json, harm.json, noise.json,
    samples.json.

    name: what the run is called in a comparison (its folder).  Sizes in bytes, times in seconds,
    divergences in nats, metrics in [0, 1], drops and bounds in points of the metric.
    """

    name: str
    summary: Row
    front: Row = field(default_factory=dict)
    certificate: Row = field(default_factory=dict)
    harm: Row = field(default_factory=dict)
    noise: Row = field(default_factory=dict)
    samples: Row = field(default_factory=dict)

    @property
    def unit(self) -> str:
        """What divergences are in; nats where the run says nothing else."""
        return str(self.summary.get("unit") or "nats")

    @property
    def points(self) -> Sequence[Row]:
        """The front's points; the position is the index that `allot apply --point` takes."""
        return self.front.get("points") or ()

    @property
    def chosen(self) -> int | None:
        """Index of the point that became the artefact, None where none did."""
        return self.summary.get("chosen")

    @property
    def verdicts(self) -> dict[int, bool | None]:
        """Index -> certified; None where the fixed sequence stopped before testing it."""
        found = {int(k): v for k, v in (self.front.get("certified") or {}).items()}
        return {i: found.get(i) for i in range(len(self.points))}

    @property
    def bounds(self) -> dict[int, float]:
        """Index -> certified upper bound on the drop, in points."""
        found = (self.front.get("bounds") or {}).items()
        return {int(k): v for k, v in found if v is not None}

    @property
    def claim(self) -> float | None:
        """Points that are claimed of unseen data; the mere bound where that is not certified.

        The bound of a network tested alone; what was allowed where a sequence of networks was
        tested on the same samples: there the bound of the picked one alone would claim too much.
        """
        bound = self.certificate.get("bound")
        return self.certificate.get("claim", bound) if self.certificate.get("certified") else bound

    @property
    def original(self) -> Row:
        return self.summary.get("original") or {}

    @property
    def compressed(self) -> Row:
        return self.summary.get("compressed") or {}

    @property
    def layers(self) -> Sequence[Row]:
        return self.summary.get("layers") or ()

    @property
    def metric(self) -> str:
        return str(self.summary.get("metric") or "metric")

    @property
    def task(self) -> str:
        return str(self.summary.get("task") or self.name)


def read(folder: Path) -> ReportData:
    """The report's data of a run folder.

    Raises ArtefactError when summary.json is missing, or when any of the files is damaged.
    """
    summary = _json(folder / "summary.json")
    if not summary:
        raise ArtefactError(f"{folder} holds no summary.json; give the folder of a finished run")
    if summary.get("version") != VERSION:
        raise ArtefactError(f"{folder / 'summary.json'} is not a summary of version {VERSION}")
    return ReportData(
        name=folder.resolve().name,
        summary=summary,
        front=_json(folder / "front.json"),
        certificate=_json(folder / "certificate.json"),
        harm=_json(folder / "harm.json"),
        noise=_json(folder / NOISE),
        samples=_json(folder / SAMPLES),
    )


def _json(path: Path) -> dict[str, Any]:
    """The object in a file, {} where there is no such file."""
    if not path.exists():
        return {}
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as e:
        raise ArtefactError(f"{path} is damaged: {e}") from e
    if not isinstance(data, dict):
        raise ArtefactError(f"{path} is damaged: it should hold an object, not {type(data)}")
    return data
