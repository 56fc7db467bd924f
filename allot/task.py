"""Task: a network, its data split three ways, how to run it and what people quote of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from allot.errors import DataError

Inputs = Tensor | dict[str, Tensor]


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


def call(model: nn.Module, batch: Inputs) -> Tensor:
    """The usual forward: a tensor goes in as it is, a dict by keywords."""
    return model(batch) if isinstance(batch, Tensor) else model(**batch)


def kl_to_original(original: Tensor, output: Tensor) -> Tensor:
    """KL(original || output) in nats per sample of logits [n, classes] -> [n], in float64."""
    p = torch.log_softmax(original.double(), dim=1)
    q = torch.log_softmax(output.double(), dim=1)
    return (p.exp() * (p - q)).sum(1).clamp(min=0)


def top1(output: Tensor, labels: Tensor) -> Tensor:
    """1 where the largest logit is the label's, else 0: [n, classes], [n] -> [n]."""
    return (output.argmax(1) == labels).double()


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """What is to be compressed and how to tell what was lost.

    model: the network, left as it is.  calibrate, search, certify: three sets that share no
    sample.  forward(model, batch) -> outputs [n, ...].  divergence(original outputs, outputs) ->
    per-sample loss of fidelity in nats [n].  score(outputs, labels) -> per-sample metric in
    [0, 1], of which `metric` is the name.  input_names: names of the exported file's inputs.
    preprocess: one sentence on what the inputs are, carried into the artefact.
    """

    name: str
    model: nn.Module
    calibrate: Data
    search: Data
    certify: Data
    forward: Callable[[nn.Module, Any], Tensor] = call
    divergence: Callable[[Tensor, Tensor], Tensor] = kl_to_original
    score: Callable[[Tensor, Tensor], Tensor] = top1
    metric: str = "top-1"
    preprocess: str = ""
    classes: tuple[str, ...] = field(default=())

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
