"""A small residual CNN on scikit-learn's digits, trained here in seconds, one per seed."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from allot.builtin.digits_resnet import PREPROCESS, Block, halves
from allot.task import Data, Task, split
from benchmarks.search.weights import loaded, saved

EPOCHS, BATCH, RATE, DECAY, SMOOTHING, NOISE = 30, 64, 0.1, 5e-4, 0.05, 0.08
CALIBRATE, SEARCH, HELD_OUT = 400, 400, 500


class SmallResNet(nn.Module):
    """Stem of stride 2, blocks of 12, 24 and 24 channels, linear: [n, 1, 16, 16] -> [n, 10].

    block1 and block3 have identity shortcuts, so they can be skipped.
    """

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.conv = nn.Conv2d(1, 12, 3, stride=2, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(12)
        self.block1 = Block(12, 12, stride=1)
        self.block2 = Block(12, 24, stride=2)
        self.block3 = Block(24, 24, stride=1)
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(24, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn(self.conv(x)))
        x = self.block3(self.block2(self.block1(x)))
        return self.linear(self.pool(x).flatten(1))


def trained(data: Data, seed: int) -> SmallResNet:
    """Stochastic gradient descent with momentum on a one-cycle rate; the last epoch is kept."""
    assert isinstance(data.inputs, Tensor) and data.labels is not None
    generator = torch.Generator().manual_seed(seed)
    model = initial(seed).train()
    steps = -(-len(data) // BATCH) * EPOCHS
    optimizer = torch.optim.SGD(
        model.parameters(), lr=RATE, momentum=0.9, nesterov=True, weight_decay=DECAY
    )
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=RATE, total_steps=steps)
    loss = nn.CrossEntropyLoss(label_smoothing=SMOOTHING)
    for _ in range(EPOCHS):
        for index in torch.randperm(len(data), generator=generator).split(BATCH):
            x = data.inputs[index]
            x = x + NOISE * torch.randn(x.shape, generator=generator)
            optimizer.zero_grad()
            loss(model(x), data.labels[index]).backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def initial(seed: int) -> SmallResNet:
    """The untrained network of a seed; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)  # layers draw their weights from it
        return SmallResNet()


def task(seed: int, folder: Path) -> Task:
    """The network of a training seed, from the folder or trained and kept there.

    Search and certify are the 900 images that no network was trained on, the same for every
    seed.  Raises MissingError where scikit-learn is not installed.
    """
    train, unseen = halves()
    path = folder / f"digits{seed}.safetensors"
    if not path.exists():
        saved(trained(train, seed), path)
    search, held_out = split(unseen, search=SEARCH, certify=HELD_OUT, seed=0)
    calibrate, _ = split(train, search=CALIBRATE, certify=0, seed=0)
    return Task(
        name=f"digits{seed}",
        model=loaded(SmallResNet, path),
        calibrate=calibrate,
        search=search,
        certify=held_out,
        preprocess=PREPROCESS,
        classes=tuple("0123456789"),
    )
