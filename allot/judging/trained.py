"""Trained: a small judge for users who have labelled data of their kind and no network for it."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from allot.errors import DataError, InputError
from allot.judging.judge import Judge, judge
from allot.task import Data

CHANNELS, FEATURES, CELLS = (24, 48), 64, 4
BATCH, RATE = 64, 2e-3


class SmallClassifier(nn.Module):
    """Two convolutions and two linear layers: images [n, c, h, w], h and w >= 4 -> [n, classes]."""

    def __init__(self, channels: int, classes: int) -> None:
        nn.Module.__init__(self)
        first, second = CHANNELS
        self.conv1 = nn.Conv2d(channels, first, 3, padding=1)
        self.conv2 = nn.Conv2d(first, second, 3, padding=1)
        self.features = nn.Linear(second * CELLS**2, FEATURES)
        self.classes = nn.Linear(FEATURES, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.conv1(x)), 2)
        x = functional.adaptive_avg_pool2d(functional.relu(self.conv2(x)), CELLS)
        return self.classes(functional.relu(self.features(x.flatten(1))))


def trained(data: Data, *, seed: int, steps: int = 1000) -> tuple[Judge, float]:
    """A judge trained on labelled images [n, c, h, w], and its accuracy on a tenth kept apart.

    Adam with a cosine rate.  Train a second one with another seed and never search with it: what
    only the first one calls better was fitted to its blind spots.  The features are the 64 before
    the last activation function.  Raises DataError for data without labels, InputError for fewer
    than 20 images or less than one step.
    """
    if data.labels is None or not isinstance(data.inputs, Tensor) or data.inputs.dim() != 4:
        raise DataError("a judge is trained on images [n, c, h, w] with labels [n]")
    if len(data) < 20 or steps < 1:
        raise InputError(
            f"a judge needs at least 20 images and one step; {len(data)} and {steps} were given"
        )
    g = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(data), generator=g)
    kept, rest = data.subset(order[: len(data) // 10]), data.subset(order[len(data) // 10 :])
    assert kept.labels is not None
    network = _fresh(data.inputs.shape[1], int(data.labels.max()) + 1, g)
    _train(network, rest, steps=steps, generator=g)
    network.eval()
    with torch.no_grad():
        said = torch.cat([network(x).argmax(1) for x in kept.batches(250)])
    accuracy = float(torch.eq(said, kept.labels).double().mean())
    return judge(network, features="features", layers=("conv1", "conv2", "features")), accuracy


def _fresh(channels: int, classes: int, g: torch.Generator) -> SmallClassifier:
    """A network with its own random weights: the global generator is not asked."""
    with torch.device("meta"):
        network = SmallClassifier(channels, classes)
    network.to_empty(device="cpu")
    for layer in network.children():
        assert isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None
        nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu", generator=g)
        nn.init.zeros_(layer.bias)
    return network


def _train(network: nn.Module, data: Data, *, steps: int, generator: torch.Generator) -> None:
    """In place: the weights are those after the last step."""
    assert isinstance(data.inputs, Tensor) and data.labels is not None
    adam = torch.optim.Adam(network.parameters(), lr=RATE)
    for step in range(steps):
        adam.param_groups[0]["lr"] = RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
        pick = torch.randint(0, len(data), (BATCH,), generator=generator)
        loss = functional.cross_entropy(network(data.inputs[pick]), data.labels[pick])
        adam.zero_grad()
        loss.backward()
        adam.step()
