"""Measured: what each mismatch changes in a compressed network's outputs, and the worst pair."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from allot.clock import predictions
from allot.measure import paired_interval
from allot.noise.pictures import Pictures, pictures
from allot.noise.variants import KINDS, Skipped, Variant, of_images, of_inference
from allot.target import Session, Target, Workload
from allot.task import Data, Inputs, Task

VERSION = 1


@dataclass(frozen=True, kw_only=True)
class Change:
    """What one variant, or a pair, does to the outputs of n samples.

    lost: points of the metric, less than 0 where it gained; None without labels.  interval: of it,
    95 %.  nats: mean divergence from the outputs without it; None where outputs are not finite.
    same: no bit of an output differs.
    """

    labels: tuple[str, ...]
    lost: float | None
    interval: tuple[float, float] | None
    nats: float | None
    same: bool

    @property
    def badness(self) -> tuple[bool, float, float]:
        """To rank by: what is not finite, then points lost, then divergence."""
        return self.nats is None, self.lost or 0.0, self.nats or 0.0

    @property
    def text(self) -> str:
        return " and ".join(self.labels)


@dataclass(frozen=True, kw_only=True)
class Noise:
    """n: samples.  clean: the metric without any mismatch.  pairs: of the worst of every kind."""

    n: int
    metric: str
    clean: float | None
    singles: tuple[Change, ...]
    pairs: tuple[Change, ...]
    skipped: tuple[Skipped, ...]

    @property
    def worst(self) -> Change | None:
        """The worst single change, None where nothing could be tried."""
        return max(self.singles, key=lambda c: c.badness, default=None)

    @property
    def worst_pair(self) -> Change | None:
        return max(self.pairs, key=lambda c: c.badness, default=None)

    @property
    def verdict(self) -> str:
        """The worst pair beside the worst single change, in one sentence."""
        one, two = self.worst, self.worst_pair
        if one is None:
            return "no mismatch could be tried"
        if two is None:
            return f"the worst is {one.text}: {said(one)}; fewer than two kinds change anything"
        if two.badness < one.badness:
            return (
                f"the worst is {one.text} alone: {said(one)}; no pair is as bad, the worst of them "
                f"is {two.text}: {said(two)}"
            )
        return f"the worst pair is {two.text}: {said(two)}; the worst alone {one.text}: {said(one)}"

    def dump(self) -> dict[str, Any]:
        """As JSON data."""
        return {
            "version": VERSION,
            "n": self.n,
            "metric": self.metric,
            "clean": self.clean,
            "verdict": self.verdict,
            "singles": [_dump(c) for c in self.singles],
            "pairs": [_dump(c) for c in sorted(self.pairs, key=lambda c: c.badness, reverse=True)],
            "skipped": [vars(s) for s in self.skipped],
        }


def _dump(c: Change) -> dict[str, Any]:
    interval = None if c.interval is None else list(c.interval)
    return {**vars(c), "labels": list(c.labels), "interval": interval}


def said(c: Change) -> str:
    """What a change costs, for people."""
    if c.nats is None:
        return "outputs that are no numbers"
    lost = "" if c.lost is None else f"{c.lost:.2f} points, "
    return f"{lost}{c.nats:.2g} nats"


@dataclass(frozen=True, kw_only=True, eq=False)
class Deployed:
    """A file where it runs, and the samples it is judged on."""

    onnx: bytes
    target: Target
    workload: Workload
    task: Task
    data: Data

    def outputs(
        self, variants: Sequence[Variant], made: Pictures | None, opened: dict[Any, Session]
    ) -> Tensor:
        """Outputs [n, ...] under some variants of different kinds.

        opened: sessions by what they were opened with; takes up new ones in place.
        """
        target, workload = self.target, self.workload
        ordered = sorted(variants, key=lambda v: KINDS.index(v.kind))
        for v in ordered:
            workload = v.workload(workload) if v.workload else workload
            target = v.target or target
        edits = tuple(v.file for v in ordered if v.file)
        if (edits, target, workload) not in opened:
            onnx = self.onnx
            for edit in edits:
                onnx = edit(onnx)
            opened[edits, target, workload] = target.open(onnx, workload=workload)
        session = opened[edits, target, workload]
        return predictions(session, _inputs(self.data.inputs, ordered, made), batch=workload.batch)

    def change(self, variants: Sequence[Variant], clean: Tensor, found: Tensor) -> Change:
        labels, task = self.data.labels, self.task
        nats = float(task.divergence(clean, found).double().mean())
        finite = bool(torch.isfinite(found).all()) and math.isfinite(nats)
        lost, interval = None, None
        if labels is not None:
            a, b = (100 * task.score(x, labels).double() for x in (clean, found))
            lost, interval = float((a - b).mean()), paired_interval(a, b)
        return Change(
            labels=tuple(v.label for v in variants),
            lost=lost,
            interval=interval if interval and math.isfinite(interval[0]) else None,
            nats=nats if finite else None,
            same=torch.equal(clean, found),
        )


def _inputs(given: Inputs, ordered: Sequence[Variant], made: Pictures | None) -> Inputs:
    """The inputs under variants; untouched where none of them is of images."""
    if made is None or not any(v.images or v.inputs for v in ordered):
        return given
    images = made.images
    for v in ordered:
        images = v.images(images) if v.images else images
    enter = next((v.inputs for v in ordered if v.inputs), Pictures.of)
    return torch.from_numpy(enter(made, images))


def noise(deployed: Deployed, *, others: Sequence[Target]) -> Noise:
    """Every mismatch that the task can meet, alone, and all pairs of the worst of every kind.

    (Wang et al. 2023.)  others: runtimes besides the file's own.  What changes no output is left
    out of the pairs.
    """
    made, why = pictures(deployed.data.inputs)
    before, lacking = of_images(why, colour=made is not None and made.images.shape[3] == 3)
    during, more = of_inference(
        deployed.onnx, target=deployed.target, workload=deployed.workload, others=others
    )
    variants = [*before, *during]
    opened: dict[Any, Session] = {}
    clean = deployed.outputs((), made, opened)
    singles: dict[Variant, Change] = {}
    for v in variants:
        singles[v] = deployed.change((v,), clean, deployed.outputs((v,), made, opened))
    pairs = [deployed.change(p, clean, deployed.outputs(p, made, opened)) for p in _pairs(singles)]
    labels = deployed.data.labels
    return Noise(
        n=len(clean),
        metric=deployed.task.metric,
        clean=None if labels is None else float(deployed.task.score(clean, labels).double().mean()),
        singles=tuple(singles.values()),
        pairs=tuple(pairs),
        skipped=(*lacking, *more),
    )


def _pairs(singles: Mapping[Variant, Change]) -> list[tuple[Variant, Variant]]:
    """Pairs of the worst variants of two kinds; not of two that each name a runtime."""
    worst: dict[str, Variant] = {}
    for v, change in singles.items():
        if not change.same and (
            v.kind not in worst or change.badness > singles[worst[v.kind]].badness
        ):
            worst[v.kind] = v
    pairs = itertools.combinations(worst.values(), 2)
    return [(a, b) for a, b in pairs if a.target is None or b.target is None]
