"""Measure: what a plan really loses on the search data, after recovery; never twice."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from allot.bank import Bank
from allot.memo import Memo
from allot.option import Option
from allot.overlays import Overlays
from allot.plan import Plan
from allot.prefix import Prefix
from allot.recover import LIGHT, Moments, Recovery, moments
from allot.repair import repaired
from allot.task import Data, Task


@dataclass(frozen=True, kw_only=True)
class Loss:
    """Per-sample divergence from the original [nats] and metric of one plan on fixed data."""

    divergences: tuple[float, ...]
    scores: tuple[float, ...]

    @property
    def divergence(self) -> float:
        return float(np.mean(self.divergences))

    @property
    def interval(self) -> tuple[float, float]:
        """95 % normal interval of the mean divergence."""
        half = 1.96 * float(np.std(self.divergences)) / math.sqrt(len(self.divergences))
        return (max(0.0, self.divergence - half), self.divergence + half)

    @property
    def metric(self) -> float:
        return float(np.mean(self.scores))


class Meter:
    """Measures plans of one bank on one set of data, each at most once."""

    def __init__(
        self,
        task: Task,
        bank: Bank,
        data: Data,
        *,
        memo: Memo,
        batch: int = 250,
        key: str = "",
        overlays: Overlays | None = None,
    ) -> None:
        self.task, self.bank, self.data, self.memo = task, bank, data, memo
        self.key, self.overlays = key, overlays
        self._work: dict[str, float] = {}
        self.prefix = Prefix(task, bank, data, batch=batch)
        self._moments: dict[int, Moments] = {}
        self._learned: dict[str, dict[str, nn.Module]] = {}

    @property
    def passes(self) -> float:
        """Forward-pass equivalents over the whole set so far, recovery counted pro rata."""
        return 1 + sum(self._work.values())

    @property
    def original(self) -> Tensor:
        """Outputs of the original: [n, ...]."""
        return self.prefix.original

    def original_scores(self) -> Tensor:
        return self.scores(self.original)

    def moments(self, recovery: Recovery) -> Moments:
        if recovery.samples not in self._moments:
            self._moments[recovery.samples] = moments(
                self.task, self.bank.skeleton, self.bank.graph, samples=recovery.samples
            )
        return self._moments[recovery.samples]

    def standins(self, options: Mapping[str, Option], recovery: Recovery) -> dict[str, nn.Module]:
        """Stand-ins of a plan after recovery, for a trial or a copy; what was learned is kept."""

        def made(overlays: Overlays | None = None) -> dict[str, nn.Module]:
            return repaired(
                self.bank, self.task, options, recovery=recovery, overlays=overlays,
                original=(lambda: self.moments(recovery)) if recovery.matched else {},
            )  # fmt: skip

        if self.overlays is not None and recovery.together:
            return made(self.overlays)
        if recovery.learning is None:
            return made()
        name = Plan(graph="", weights="", options=options, recovery=repr(recovery)).digest
        if name not in self._learned:
            self._learned[name] = made()
        return self._learned[name]

    def overlay(self, options: Mapping[str, Option], recovery: Recovery) -> str:
        """The digest of what is stored of a plan after recovery, "" where nothing is."""
        return "" if self.overlays is None else self.overlays.digest(options, recovery)

    def loss(self, options: Mapping[str, Option], *, recovery: Recovery = LIGHT) -> Loss:
        """The loss of a plan given as site -> option."""
        name = Plan(graph="", weights="", options=options, recovery=repr(recovery)).digest
        found = self.memo.get(f"loss/{self.key}/{name}", lambda: self._measure(options, recovery))
        self._work[name] = found["passes"]
        return Loss(divergences=tuple(found["divergences"]), scores=tuple(found["scores"]))

    def _measure(self, options: Mapping[str, Option], recovery: Recovery) -> dict[str, object]:
        outputs = self.prefix.outputs(self.task, self.standins(options, recovery))
        work = 3 if recovery.in_order else 1
        return {
            "passes": 1 + work * recovery.samples / len(self.data),
            "divergences": rounded(self.task.divergence(self.original, outputs)),
            "scores": rounded(self.scores(outputs)),
        }

    def scores(self, outputs: Tensor) -> Tensor:
        """Metric per sample; agreement with the original where there are no labels."""
        labels = self.data.labels
        if labels is None:
            labels = self.task.said(self.original)
        return self.task.score(outputs, labels)


def rounded(x: Tensor) -> list[float]:
    """Values as they are stored: to 9 digits, so that a resumed job reads what it would compute."""
    return [float(f"{v:.9g}") for v in x.double().tolist()]


def paired_interval(a: Tensor, b: Tensor) -> tuple[float, float]:
    """95 % normal interval of mean(a - b) over paired samples."""
    d = a.double() - b.double()
    half = 1.96 * float(d.std()) / math.sqrt(len(d)) if len(d) > 1 else math.inf
    mean = float(torch.mean(d))
    return (mean - half, mean + half)
