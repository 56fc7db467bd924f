"""Features: what spans give at every step of the original's own run, kept to fit and plan on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from allot.sampling.history import Entry, History
from allot.sampling.moment import Moment, Request
from allot.sampling.passage import Passage
from allot.sampling.passing import passed
from allot.sampling.probes import Probe, watched
from allot.sampling.sampler import Sampler, State, Way
from allot.sampling.spans import Span


@dataclass(frozen=True, kw_only=True, eq=False)
class Seeds:
    """What samples are drawn from. noise: [n, ...].  conditions: [n, ...] each."""

    noise: Tensor
    conditions: Mapping[str, Tensor]

    def __len__(self) -> int:
        return len(self.noise)

    def batches(self, size: int) -> Iterator[Seeds]:
        for i in range(0, len(self), size):
            some = {k: v[i : i + size] for k, v in self.conditions.items()}
            yield Seeds(noise=self.noise[i : i + size], conditions=some)


@dataclass(frozen=True, kw_only=True, eq=False)
class Features:
    """One run. spans: (span, condition) -> an entry for every step.  probes: (probe, condition)
    -> a value [n, ...] for every step.  inputs: what entered the network at every step, [n, ...].
    outputs: condition -> what it gave at every step.  hollow: span -> what each of its modules
    returns, tensors left out.
    """

    spans: Mapping[tuple[Span, str], list[Entry]]
    probes: Mapping[tuple[Probe, str], list[Tensor]]
    inputs: list[Tensor]
    outputs: Mapping[str, list[Tensor]]
    hollow: Mapping[Span, Mapping[str, Any]]


class _Recording(Sampler):
    """The sampler's network at all steps, computed in full, everything asked for noted."""

    def __init__(self, original: Sampler, *, spans: Sequence[Span], probes: Sequence[Probe]):
        super().__init__(
            denoiser=original.denoiser, grid=original.grid, guidance=original.guidance,
            spans=tuple(spans),
        )  # fmt: skip
        self.probes = tuple(probes)
        self.seen: dict[tuple[Probe, str], list[Tensor]] = {}
        self.inputs: list[Tensor] = []
        self.outputs: dict[str, list[Tensor]] = {}

    @contextmanager
    def spanned(self, way: Way, moment: Moment) -> Iterator[None]:
        passages = [Passage(span=s, moment=moment, most=len(self.grid)) for s in self.spans]
        with watched(self.denoiser, self.probes) as watch, passed(self.denoiser, passages):
            yield
        for probe in self.probes:
            self.seen.setdefault((probe, moment.condition), []).append(watch.seen[probe])

    def evaluate(self, x: Tensor, moment: Moment, conditions: Mapping[str, Tensor]) -> Tensor:
        output = super().evaluate(x, moment, conditions)
        if moment.step == len(self.inputs):
            self.inputs.append(x)
        self.outputs.setdefault(moment.condition, []).append(output)
        return output


def features(
    sampler: Sampler, seeds: Seeds, *, spans: Sequence[Span] = (), probes: Sequence[Probe] = ()
) -> Features:
    """What spans and probes give at every step of the grid, each computed in full.

    The network is the sampler's as it is, quantized or not; the ways of its steps do not count.
    """
    run, request = _Recording(sampler, spans=spans, probes=probes), Request()
    with torch.no_grad():
        run.run(seeds.noise, seeds.conditions, request)
    names = list(run.conditions(State(x=seeds.noise, conditions=seeds.conditions, request=request)))
    found: dict[tuple[Span, str], list[Entry]] = {}
    hollow: dict[Span, Mapping[str, Any]] = {}
    for span in spans:
        for condition in names:
            history: History = request.kept["span", span.name, condition]
            found[span, condition], hollow[span] = history.entries, history.hollow
    return Features(
        spans=found, probes=run.seen, inputs=run.inputs, outputs=run.outputs, hollow=hollow
    )
