"""Tasks of the benchmarks: published networks and real images from the zoo.

The zoo is a folder beside the source checkout, or the one that ALLOT_ZOO names.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from allot.errors import InputError, MissingError
from allot.task import Data, Task, split

CALIBRATE, SEARCH, CERTIFY = 1024, 1000, 4000
RESNET20 = ("resnet20_jpeg", "resnet20")
MEAN = (0.485, 0.456, 0.406)
DEVIATION = (0.229, 0.224, 0.225)
PREPROCESS = (
    f"RGB 32x32 of 0..255 divided by 255, less the mean {MEAN}, divided by the deviation "
    f"{DEVIATION}, per channel; float32 [n, 3, 32, 32]"
)
CLASSES = (
    "airplane",
    "automobile",
    "bird",
    "cat",
    "deer",
    "dog",
    "frog",
    "horse",
    "ship",
    "truck",
)


class Halve(nn.Module):
    """Every second pixel, with `pad` zero channels on both sides, as published."""

    def __init__(self, pad: int) -> None:
        nn.Module.__init__(self)
        self.pad = pad

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad))


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut without parameters (He et al. 2016, option A)."""

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        nn.Module.__init__(self)
        self.conv1 = nn.Conv2d(cin, cout, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.shortcut: nn.Module = Halve(cout // 4) if stride == 2 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        out = functional.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out)) + self.shortcut(x)
        return functional.relu(out)


class ResNet20(nn.Module):
    """CIFAR ResNet-20 (He et al. 2016, section 4.2): [n, 3, 32, 32] -> [n, 10].

    Module names as in akamaster/pytorch_resnet_cifar10, whose weights it takes.
    """

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.conv1 = nn.Conv2d(3, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.layer1 = nn.Sequential(Block(16, 16, 1), Block(16, 16, 1), Block(16, 16, 1))
        self.layer2 = nn.Sequential(Block(16, 32, 2), Block(32, 32, 1), Block(32, 32, 1))
        self.layer3 = nn.Sequential(Block(32, 64, 2), Block(64, 64, 1), Block(64, 64, 1))
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        x = functional.avg_pool2d(x, x.shape[-1])
        return self.linear(x.flatten(1))


def zoo() -> Path:
    """The folder of trained networks and real data; raises MissingError where there is none."""
    beside = Path(__file__).resolve().parents[1].parent / "shared" / "zoo"
    folder = Path(os.environ.get("ALLOT_ZOO", beside))
    if not (folder / "cifar10").is_dir():
        raise MissingError(
            f"the benchmark data are not in {folder}; set ALLOT_ZOO to the folder that holds "
            "cifar10/cifar10_jpeg.npz, or use the built-in task digits-resnet"
        )
    return folder


def resnet20(weights: str = "resnet20_jpeg", seed: int = 0) -> Task:
    """ResNet-20 on CIFAR-10: calibrate 1 024 training images, search 1 000 and certify 4 000.

    weights: "resnet20_jpeg" (tuned on these JPEG copies, 88.06 % of the 5 000 test images) or
    "resnet20" (as published, 81.00 %).  Raises MissingError without the zoo, InputError for
    other weights.
    """
    if weights not in RESNET20:
        raise InputError(f"no ResNet-20 weights {weights!r}; there are: {', '.join(RESNET20)}")
    folder = zoo() / "cifar10"
    with np.load(folder / "cifar10_jpeg.npz") as arrays:
        train = images(arrays["calib_x"], arrays["calib_y"])
        test = images(arrays["test_x"], arrays["test_y"])
    calibrate, _ = split(train, search=CALIBRATE, certify=0, seed=seed)
    search, certify = split(test, search=SEARCH, certify=CERTIFY, seed=seed)
    return Task(
        name=weights,
        model=network(load_file(folder / f"{weights}.safetensors")),
        calibrate=calibrate,
        search=search,
        certify=certify,
        preprocess=PREPROCESS,
        classes=CLASSES,
    )


def resnet20_published(seed: int = 0) -> Task:
    """ResNet-20 with the published weights, where figures are compared with other tools."""
    return resnet20("resnet20", seed)


def images(pixels: np.ndarray, labels: np.ndarray) -> Data:
    """uint8 [n, h, w, 3] and labels [n] -> normalized inputs [n, 3, h, w]."""
    x = torch.from_numpy(pixels).permute(0, 3, 1, 2).float() / 255
    mean, deviation = (torch.tensor(v).view(3, 1, 1) for v in (MEAN, DEVIATION))
    return Data(inputs=(x - mean) / deviation, labels=torch.from_numpy(labels).long())


def network(state: dict[str, Tensor]) -> ResNet20:
    """The network with these weights, in eval mode; the global random state is not touched."""
    with torch.device("meta"):
        model = ResNet20()
    # the published file was saved from a wrapper, and before batch norm counted its batches
    counters = {k: torch.tensor(0) for k in model.state_dict() if k.endswith("num_batches_tracked")}
    named = {k.removeprefix("module."): v for k, v in state.items()}
    model.load_state_dict({**counters, **named}, assign=True)
    return model.eval()
