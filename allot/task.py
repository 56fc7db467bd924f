"""Task: a network, its data split three ways, how to run it and what people quote of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from allot.errors import DataError

Inputs = Tensor | dict[str, Tensor]
# axes whose length is free beside the first one's, by "input" or the keys of a dict
Free = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Data:
    """Inputs (a tensor [n, ...] or a dict of them) and, where there are any, labels [n]."""

    inputs: Inputs
    labels: Tensor | None = None

    def __len__(self) -> int:
        first = self.inputs if isinstance(self.inputs, Tensor) else next(iter(self.inputs.values()))
        return len(first)

    def batches(self, size: int) -> Iterator[Inputs]:
        for i in range(0, len(self), size):
            yield take(self.inputs, slice(i, i + size))

    def subset(self, index: Tensor | slice) -> Data:
        labels = None if self.labels is None else self.labels[index]
        return Data(inputs=take(self.inputs, index), labels=labels)


def take(inputs: Inputs, index: Tensor | slice) -> Inputs:
    """Some samples of the inputs."""
    if isinstance(inputs, Tensor):
        return inputs[index]
    return {k: v[index] for k, v in inputs.items()}


def free_axes(inputs: Inputs) -> dict[str, tuple[int, ...]]:
    """The length of sequences: the second axis of whole numbers [n, t]."""
    given = {"input": inputs} if isinstance(inputs, Tensor) else inputs
    return {k: (1,) for k, x in given.items() if x.dim() == 2 and not x.is_floating_point()}


def call(model: nn.Module, batch: Inputs) -> Tensor:
    """The usual forward: a tensor goes in as it is, a dict by keywords."""
    return model(batch) if isinstance(batch, Tensor) else model(**batch)


def kl_to_original(original: Tensor, output: Tensor) -> Tensor:
    """KL(original || output) in nats per sample of logits [n, classes] -> [n], in float64."""
    p = torch.log_softmax(original.double(), dim=1)
    q = torch.log_softmax(output.double(), dim=1)
    return (p.exp() * (p - q)).sum(1).clamp(min=0)


def largest(output: Tensor) -> Tensor:
    """What a network that puts out logits says: [n, classes] -> [n]."""
    return output.argmax(1)


def top1(output: Tensor, labels: Tensor) -> Tensor:
    """1 where the largest logit is the label's, else 0: [n, classes], [n] -> [n]."""
    return (output.argmax(1) == labels).double()


class Family(Protocol):
    """A kind of network whose sites and whose job are its own: a sampler, say."""

    def graph(self, task: Task) -> Any:
        """The sites of a task's network, as `allot.trace.trace` gives those of other networks."""

    def compress(self, task: Task, **settings: Any) -> Any:
        """The whole job; settings and outcome are those of `allot.compress`."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What is to be compressed and how to tell what was lost.

    model: the network, left as it is.  calibrate, search, certify: three sets that share no
    sample.  forward(model, batch) -> outputs [n, ...].  divergence(original outputs, outputs) ->
    per-sample loss of fidelity in nats [n].  score(outputs, labels) -> per-sample metric in
    [0, 1], of which `metric` is the name; where there are no labels it is given what the original
    said(outputs).  preprocess: one sentence on what the inputs are, carried
    into the artefact.  free: axes of inputs that may have another length in the exported file, the
    first one aside; None for the second axis of tokens [n, t].  family: whose job it is, where that
    is not the usual one.
    """

    name: str
    model: nn.Module
    calibrate: Data
    search: Data
    certify: Data
    forward: Callable[[nn.Module, Any], Tensor] = call
    divergence: Callable[[Tensor, Tensor], Tensor] = kl_to_original
    score: Callable[[Tensor, Tensor], Tensor] = top1
    said: Callable[[Tensor], Tensor] = largest
    metric: str = "top-1"
    preprocess: str = ""
    classes: tuple[str, ...] = field(default=())
    free: Free | None = None
    family: Family | None = None

    def example(self, n: int = 2) -> Inputs:
        """A small batch of calibration inputs, for tracing and export."""
        return take(self.calibrate.inputs, slice(0, n))


def split(data: Data, *, search: int, certify: int, seed: int) -> tuple[Data, Data]:
    """Two disjoint sets drawn once by seed; raises DataError when there are too few samples."""
    if search + certify > len(data):
        raise DataError(
            f"{search} search and {certify} certify samples need {search + certify}; "
            f"there are {len(data)}"
        )
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(seed))
    return data.subset(order[:search]), data.subset(order[search : search + certify])
