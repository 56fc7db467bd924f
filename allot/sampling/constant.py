"""Constant: a span's mean result at a step in its place; cheaper steps without a memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from allot.errors import ModelError
from allot.sampling.features import Seeds, features
from allot.sampling.moment import Moment
from allot.sampling.nested import holes
from allot.sampling.sampler import Sampler, Step
from allot.sampling.spans import Kept, Span


class Constant(nn.Module):
    """The same for every sample: least squared error of all that reads nothing.

    values: condition -> [1, ...] at one step.  hollow: what the span's modules return, without
    tensors; a network may look into it though nothing has run.
    """

    needs = 0
    label = "constant"

    def __init__(self, *, values: Mapping[str, Tensor], hollow: Mapping[str, Any]) -> None:
        nn.Module.__init__(self)
        self.hollow = dict(hollow)
        for condition, value in values.items():
            self.register_buffer(f"value_{condition}", value)

    def predict(self, past: Sequence[Kept], moment: Moment) -> Tensor:
        return self.get_buffer(f"value_{moment.condition}")


def left_constant(
    sampler: Sampler, seeds: Seeds, *, spans: Sequence[Span], steps: Sequence[int], batch: int = 64
) -> dict[str, Step]:
    """Steps ("steps.i") in which spans are never computed, their means over the seeds put there.

    Raises ModelError for a span that more than one tensor leaves.
    """
    found: dict[tuple[int, Span, str], Tensor] = {}
    hollow: dict[Span, Mapping[str, Any]] = {}
    for some in seeds.batches(batch):
        seen = features(sampler, some, spans=spans)
        hollow |= seen.hollow
        for (span, condition), entries in seen.spans.items():
            for i in steps:
                total = entries[i].values[0].double().sum(0, keepdim=True)
                key = (i, span, condition)
                found[key] = found[key] + total if key in found else total
    for span in spans:
        if holes(hollow[span][span.modules[-1]]) != 1:
            raise ModelError(f"several tensors leave {span.name}; name a span that one leaves")
    made = {}
    for i in steps:
        dtype = seeds.noise.dtype
        means = {s: _mean(found, hollow[s], i, s, len(seeds), dtype) for s in spans}
        made[f"steps.{i}"] = _step(sampler, i, means)
    return made


def _mean(
    found: Mapping[tuple[int, Span, str], Tensor],
    hollow: Mapping[str, Any],
    step: int,
    span: Span,
    n: int,
    dtype: torch.dtype,
) -> Constant:
    mine = {c: (v / n).to(dtype) for (i, s, c), v in found.items() if (i, s) == (step, span)}
    return Constant(values=mine, hollow=hollow)


def _step(sampler: Sampler, index: int, values: Mapping[Span, Constant]) -> Step:
    old = sampler.get_submodule(f"steps.{index}")
    assert isinstance(old, Step)
    return Step(index=index, way=replace(old.way, reuse={**old.way.reuse, **values}))
