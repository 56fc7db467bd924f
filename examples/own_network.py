"""Your own network: a file with a function that returns an allot.Task.

    allot compress examples/own_network.py:task --budget size=12% --max-drop 3 --out runs/own

Copy this page; put your network, your trained weights and your data in the places marked YOURS.
"""

import torch
from torch import Tensor, nn

from allot import Data, Task

SIDES = ("flat", "rising", "upright", "falling")


class Net(nn.Module):
    """YOURS: any nn.Module. Convolutions, linear layers and batch norm are compressed."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(16)
        self.conv2 = nn.Conv2d(16, 32, 3, stride=2, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(32)
        self.conv3 = nn.Conv2d(32, 32, 3, padding=1, bias=False)
        self.bn3 = nn.BatchNorm2d(32)
        self.linear = nn.Linear(32, len(SIDES))

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.bn1(self.conv1(x)))
        x = torch.relu(self.bn2(self.conv2(x)))
        x = torch.relu(self.bn3(self.conv3(x)))
        return self.linear(x.mean((2, 3)))


def stripes(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """YOURS: inputs [n, ...] and labels [n]. Here: noisy stripes that lean one of four ways."""
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(len(SIDES), (n,), generator=draw)
    angle = labels * torch.pi / 4 + 0.15 * torch.randn(n, generator=draw)
    phase = 2 * torch.pi * torch.rand(n, 1, 1, generator=draw)
    y, x = torch.meshgrid(torch.arange(16.0), torch.arange(16.0), indexing="ij")
    across = x * angle.sin().view(-1, 1, 1) + y * angle.cos().view(-1, 1, 1)
    noise = 0.8 * torch.randn(n, 16, 16, generator=draw)
    return ((across * 0.9 + phase).sin() + noise)[:, None], labels


def trained(inputs: Tensor, labels: Tensor) -> nn.Module:
    """YOURS: load your weights here. A few seconds of training, so that this page runs alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = Net()
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a plan is bound to the exact weights; more threads sum otherwise
    optimizer = torch.optim.Adam(net.parameters(), lr=0.005)
    order = torch.Generator().manual_seed(0)
    for _ in range(4):
        for index in torch.randperm(len(inputs), generator=order).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(net(inputs[index]), labels[index]).backward()
            optimizer.step()
    torch.set_num_threads(threads)
    return net.eval()


def task() -> Task:
    """What is to be compressed. The three sets must not share a sample:

    calibrate  some hundred training inputs: ranges and statistics come from them
    search     held-out inputs by which plans are compared
    certify    held-out inputs that nothing else sees: they prove the drop (more prove more)
    """
    x, y = stripes(2000, seed=1)
    x_search, y_search = stripes(500, seed=2)
    x_certify, y_certify = stripes(2000, seed=3)
    return Task(
        name="stripes",
        model=trained(x, y),
        calibrate=Data(inputs=x[:512], labels=y[:512]),
        search=Data(inputs=x_search, labels=y_search),
        certify=Data(inputs=x_certify, labels=y_certify),
        preprocess="grey 16x16 images of mean 0 and amplitude 1, float32 [n, 1, 16, 16]",
        classes=SIDES,
    )
