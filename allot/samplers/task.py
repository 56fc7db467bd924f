"""Task: a sampler to be made cheaper, and the noises it is calibrated, searched and proven on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from allot.errors import InputError
from allot.judging.feature_error import bounded_errors, fitted
from allot.judging.judge import Judge
from allot.judging.noises import check_disjoint, drawn
from allot.judging.objective import FrechetToOriginal
from allot.samplers.graph import graph_of
from allot.samplers.own_judge import own_judge
from allot.sampling.sampler import Sampler
from allot.sampling.spans import Span
from allot.site import Graph
from allot.target import Target, Workload
from allot.task import Task


@dataclass(frozen=True, kw_only=True)
class Noises:
    """How many runs of a sampler are drawn for what, and from which seed."""

    calibrate: int = 64
    search: int = 256
    certify: int = 1024
    seed: int = 0


NOISES = Noises()


@dataclass(frozen=True, kw_only=True, eq=False)
class Likeness:
    """How alike two samples from one noise look to a judge: 1 equal, 0 nothing in common."""

    judge: Judge

    def __call__(self, samples: Tensor, original: Tensor) -> Tensor:
        """Per-sample likeness of samples [n, ...] to the original's: [n] in [0, 1]."""
        return 1 - bounded_errors(self.judge, original, samples).double()


class Written(Protocol):
    """Writes a planned sampler into a folder and opens it again in a runtime."""

    def __call__(
        self, folder: Path, sampler: Sampler, graph: Graph, example: Mapping[str, Tensor], *,
        target: Target, workload: Workload,
    ) -> Sampler: ...  # fmt: skip


@dataclass(frozen=True, kw_only=True, eq=False)
class Sampled:
    """The `Family` of samplers (see `allot.task`): whose sites, and which job runs on them.

    judge: of samples.  sets: name -> spans that steps may leave out together.  origin: what else an
    artefact says of where the sampler came from.  written: makes the files of a planned sampler;
    None where there is no form for them.
    """

    judge: Judge
    sets: Mapping[str, tuple[Span, ...]] = field(default_factory=dict)
    origin: Mapping[str, Any] = field(default_factory=dict)
    written: Written | None = None

    def graph(self, task: Task) -> Graph:
        """The sites of a task's sampler."""
        assert isinstance(task.model, Sampler)
        example = task.example()
        assert isinstance(example, dict)
        return graph_of(task.model, example)

    def compress(self, task: Task, **settings: Any) -> Any:
        """The whole job of a sampler; settings as those of `allot.compress`."""
        from allot.samplers.job import compress

        return compress(task, **settings)

    def fitted(self, task: Task) -> Task:
        """The task with errors stated as shares of what its unrelated samples differ by.

        Runs the original from the calibration noises.
        """
        with torch.no_grad():
            samples = torch.cat([task.forward(task.model, b) for b in task.calibrate.batches(64)])
        seen = fitted(self.judge, samples) if len(samples) > 1 else self.judge
        family = replace(self, judge=seen)
        return replace(task, score=Likeness(judge=seen), family=family)


def task_of(
    sampler: Sampler,
    shape: Sequence[int],
    *,
    name: str,
    conditions: Mapping[str, Tensor] | None = None,
    noises: Noises = NOISES,
    judge: Judge | None = None,
    sets: Mapping[str, tuple[Span, ...]] | None = None,
    origin: Mapping[str, Any] | None = None,
    written: Written | None = None,
) -> Task:
    """A task whose model is a sampler: same noise, same conditions, how far apart are the samples.

    shape: of one noise.  conditions: rows that samples are drawn under, used equally often.  judge:
    None for the sampler's own network (see `allot.samplers.own_judge`).  sets: name -> spans that
    steps may leave out together; None for each of the sampler's alone.  The divergence is the
    Frechet distance to the original's samples and a share of the squared feature error; the
    metric is the likeness of each sample.  Raises InputError for a set without noises.
    """
    for what in ("calibrate", "search", "certify"):
        if getattr(noises, what) < 1:
            raise InputError(f"{what} takes at least one noise; {getattr(noises, what)} were given")
    given = dict(conditions or {})
    drawn_for = {
        what: drawn(
            getattr(noises, what), shape, purpose=what, seed=noises.seed, conditions=given or None
        )
        for what in ("calibrate", "search", "certify")
    }
    check_disjoint(drawn_for)
    seen = judge or own_judge(sampler, given)
    return Task(
        name=name,
        model=sampler,
        calibrate=drawn_for["calibrate"],
        search=drawn_for["search"],
        certify=drawn_for["certify"],
        forward=_sampled,
        divergence=FrechetToOriginal(judge=seen),
        score=Likeness(judge=seen),
        said=itself,
        metric="likeness",
        preprocess="standard normal noise",
        family=Sampled(
            judge=seen,
            sets=each_span(sampler) if sets is None else sets,
            origin=dict(origin or {}),
            written=written,
        ),
    )


def itself(samples: Tensor) -> Tensor:
    """Samples are compared with samples."""
    return samples


def each_span(sampler: Sampler) -> dict[str, tuple[Span, ...]]:
    """Every span of a sampler by itself."""
    return {s.name: (s,) for s in sampler.spans}


def _sampled(model: torch.nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    samples: Tensor = model(**batch)
    return samples
