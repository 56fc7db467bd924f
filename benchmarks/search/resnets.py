"""CIFAR ResNets of the zoo: ResNet-20 with two sets of weights, and ResNet-44."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from allot.errors import InputError
from allot.task import Task, split
from benchmarks.tasks import CLASSES, PREPROCESS, Block, images, zoo

CALIBRATE, SEARCH, HELD_OUT = 256, 192, 96
# name -> blocks per stage
NETWORKS = {"resnet20": 3, "resnet20_jpeg": 3, "resnet44": 7}


class ResNet(nn.Module):
    """CIFAR ResNet (He et al. 2016, section 4.2): [n, 3, 32, 32] -> [n, 10].

    blocks: per stage, of three stages.  Module names as in akamaster/pytorch_resnet_cifar10.
    """

    def __init__(self, blocks: int) -> None:
        nn.Module.__init__(self)
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(*(Block(16, 16, 1) for _ in range(blocks)))
        more = range(blocks - 1)
        self.layer2 = nn.Sequential(Block(16, 32, 2), *(Block(32, 32, 1) for _ in more))
        self.layer3 = nn.Sequential(Block(32, 64, 2), *(Block(64, 64, 1) for _ in more))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.linear(functional.avg_pool2d(x, x.shape[-1]).flatten(1))


def task(name: str, folder: Path) -> Task:
    """A network by name; search and held-out samples are test images, the same for all.

    folder: unused, nothing is trained.  Raises MissingError without the zoo, InputError for
    another name.
    """
    source = zoo() / "cifar10"
    if name not in NETWORKS:
        raise InputError(f"no ResNet {name!r}; there are {', '.join(NETWORKS)}")
    with np.load(source / "cifar10_jpeg.npz") as arrays:
        train = images(arrays["calib_x"], arrays["calib_y"])
        test = images(arrays["test_x"], arrays["test_y"])
    calibrate, _ = split(train, search=CALIBRATE, certify=0, seed=0)
    search, held_out = split(test, search=SEARCH, certify=HELD_OUT, seed=0)
    return Task(
        name=name,
        model=network(source / f"{name}.safetensors", NETWORKS[name]),
        calibrate=calibrate,
        search=search,
        certify=held_out,
        preprocess=PREPROCESS,
        classes=CLASSES,
    )


def network(path: Path, blocks: int) -> ResNet:
    """The network with the weights of a file, in eval mode; no random number is drawn."""
    with torch.device("meta"):
        model = ResNet(blocks)
    # the files were saved from a wrapper, and before batch norm counted its batches
    counters = {k: torch.tensor(0) for k in model.state_dict() if k.endswith("num_batches_tracked")}
    named = {k.removeprefix("module."): v for k, v in load_file(path).items()}
    model.load_state_dict({**counters, **named}, assign=True)
    return model.eval()
