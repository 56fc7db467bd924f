"""digits-resnet: a small residual CNN with batch norm on scikit-learn's handwritten digits.

1 797 grey images of 8x8 (Alpaydin and Kaynak 1998, the test part of UCI's optdigits), which
scikit-learn carries, so that nothing is downloaded. A fixed half trained the network
(scripts/train_digits_resnet.py) and calibrates; search and certify are drawn from the other half.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from allot.errors import MissingError
from allot.task import Data, Task, split

WEIGHTS = Path(__file__).with_name("digits_resnet.safetensors")
TRAIN = 897
CALIBRATE, SEARCH, CERTIFY = 400, 300, 600
PREPROCESS = (
    "a grey 8x8 image with values 0 (paper) to 16 (ink), divided by 16 and enlarged to "
    "float32 [n, 1, 16, 16] (bilinear, half-pixel centres)"
)


class Block(nn.Module):
    """Two 3x3 convolutions and a shortcut, a projection where the shape changes.

    [n, cin, h, w] -> [n, cout, h / stride, w / stride] (He et al. 2016, option B).
    """

    def __init__(self, cin: int, cout: int, stride: int) -> None:
        nn.Module.__init__(self)
        self.conv1 = nn.Conv2d(cin, cout, 3, stride=stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(cout)
        self.conv2 = nn.Conv2d(cout, cout, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(cout)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or cin != cout:
            project = nn.Conv2d(cin, cout, 1, stride=stride, bias=False)
            self.shortcut = nn.Sequential(project, nn.BatchNorm2d(cout))

    def forward(self, x: Tensor) -> Tensor:
        out = torch.relu(self.bn1(self.conv1(x)))
        out = self.bn2(self.conv2(out)) + self.shortcut(x)
        return torch.relu(out)


class DigitsResNet(nn.Module):
    """Stem, three residual blocks of 16, 32, 64 channels, linear: [n, 1, 16, 16] -> [n, 10]."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.conv = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(16)
        self.block1 = Block(16, 16, stride=1)
        self.block2 = Block(16, 32, stride=2)
        self.block3 = Block(32, 64, stride=2)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.conv(x)))
        x = self.block3(self.block2(self.block1(x)))
        return self.linear(self.pool(x).flatten(1))


def halves() -> tuple[Data, Data]:
    """The 897 images that trained the network and the 900 held out, [n, 1, 16, 16] and [n].

    Raises MissingError where scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as e:
        raise MissingError(
            "the built-in task digits-resnet needs the digits that scikit-learn carries; "
            "install it with: pip install 'allot[cpu]'"
        ) from e
    digits = load_digits()
    images = torch.from_numpy(digits.images / 16).float()[:, None]
    inputs = nn.functional.interpolate(images, scale_factor=2, mode="bilinear")
    data = Data(inputs=inputs, labels=torch.from_numpy(digits.target).long())
    # the carried weights have seen the first half: numpy freezes this legacy stream for ever, a
    # stream that changed with a version would quietly certify on training images
    order = torch.from_numpy(np.random.RandomState(0).permutation(len(data)))
    return data.subset(order[:TRAIN]), data.subset(order[TRAIN:])


def network() -> DigitsResNet:
    """The trained network in eval mode; the global random state is not touched."""
    with torch.device("meta"):
        model = DigitsResNet()
    model.load_state_dict(load_file(WEIGHTS), assign=True)
    return model.eval()


def task(seed: int = 0) -> Task:
    """Calibrate 400 of the training half; search 300 and certify 600 of the held-out half.

    Originals only: altered copies are not independent draws, which the certificate assumes.
    Raises MissingError where scikit-learn is not installed.
    """
    train, held_out = halves()
    search, certify = split(held_out, search=SEARCH, certify=CERTIFY, seed=seed)
    calibrate, _ = split(train, search=CALIBRATE, certify=0, seed=seed)
    return Task(
        name="digits-resnet",
        model=network(),
        calibrate=calibrate,
        search=search,
        certify=certify,
        preprocess=PREPROCESS,
        classes=tuple("0123456789"),
    )
