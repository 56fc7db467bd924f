"""Judge of the zoo's samplers: a classifier of 16x16 Fashion-MNIST, and real images for it."""

from __future__ import annotations

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from allot.errors import InputError
from allot.judging.judge import Judge
from allot.judging.judge import judge as frozen
from allot.task import Data
from benchmarks.tasks import zoo

CLASSES = (
    "T-shirt",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "boot",
)
SETS = ("test", "calib")
LAYERS = ("c1", "c2", "f1")


class Classifier(nn.Module):
    """The zoo's metric network: images [n, 1, 16, 16] in -1 .. 1 -> logits [n, 10]."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.c1 = nn.Conv2d(1, 24, 3, padding=1)
        self.c2 = nn.Conv2d(24, 48, 3, padding=1)
        self.f1 = nn.Linear(768, 64)
        self.f2 = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.c1(x)), 2)
        x = functional.max_pool2d(functional.relu(self.c2(x)), 2)
        return self.f2(functional.relu(self.f1(x.flatten(1))))


def judge() -> Judge:
    """The zoo's judge; its features are the 64 before the last activation function.

    Raises MissingError without the zoo.
    """
    with torch.device("meta"):
        network = Classifier()
    network.load_state_dict(load_file(zoo() / "fmnist" / "clf16_fmnist.safetensors"), assign=True)
    return frozen(network, features="f1", layers=LAYERS)


def real(name: str = "test") -> Data:
    """Real images [n, 1, 16, 16] in -1 .. 1 with labels: 10 000 of "test" or 5 000 of "calib".

    28x28 with a rim of two zeros, means of 2x2, rounded, over 127.5 less 1, as the zoo's networks
    were trained; in a fixed mixed order, since the file may be sorted by class.  Raises
    MissingError without the zoo, InputError for another name.
    """
    if name not in SETS:
        raise InputError(f"no images {name!r}; there are {', '.join(SETS)}")
    with np.load(zoo() / "fmnist" / "fmnist.npz") as arrays:
        pixels = torch.from_numpy(arrays[f"{name}_x"]).float()
        labels = torch.from_numpy(arrays[f"{name}_y"]).long()
    small = functional.avg_pool2d(functional.pad(pixels[:, None], (2, 2, 2, 2)), 2).round()
    order = torch.randperm(len(labels), generator=torch.Generator().manual_seed(0))
    return Data(inputs=(small / 127.5 - 1)[order], labels=labels[order])
