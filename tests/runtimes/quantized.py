"""Quantized: small networks in 8 bits throughout, wherever a target wants them."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from allot.bank import Bank
from allot.calibrate import calibrate, needed
from allot.deploy import deploy
from allot.onnx_graph import to_onnx
from allot.options import precision
from allot.runtimes import OnnxRuntime
from allot.settle import settled_
from allot.site import Graph
from allot.target import Target
from allot.task import Data, Task
from allot.trace import trace


class Step(nn.Module):
    """A convolution and the way around it: [n, 8, h, w]."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.conv = nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(8)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.norm(self.conv(x)) + x)


class Sums(nn.Module):
    """A narrow stem, pooling, two shortcuts (one padded), a depthwise layer: [n, 3, 16, 16]."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.first = Step()
        self.pool = nn.MaxPool2d(3, 2, 1)
        self.wide = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.deep = nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.last = nn.Conv2d(16, 16, 1)
        self.head = nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.stem(x)))
        x = self.first(x)
        y = F.relu6(self.deep(F.relu(self.wide(x))))
        x = F.relu(self.last(y) + F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 4, 4)))
        return self.head(x.mean((2, 3)))


class Mixed(nn.Module):
    """What goes into SiLU, a concatenation and a linear over tokens: [n, 4, 8, 8]."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.a = nn.Conv2d(4, 8, 3, padding=1)
        self.b = nn.Conv2d(8, 8, 1)
        self.c = nn.Conv2d(16, 8, 3, padding=1, stride=2)
        self.one = nn.Linear(8, 16)
        self.two = nn.Linear(16, 8, bias=False)
        self.head = nn.Linear(8, 3)

    def forward(self, x: Tensor) -> Tensor:
        y = F.silu(self.a(x))
        y = self.c(torch.cat([y, self.b(y)], 1))
        z = y.flatten(2).transpose(1, 2)
        z = z + self.two(F.gelu(self.one(z)))
        return self.head(F.relu(z).mean(1))


NETWORKS: dict[str, tuple[type[nn.Module], tuple[int, ...]]] = {
    "sums": (Sums, (3, 16, 16)),
    "mixed": (Mixed, (4, 8, 8)),
}


def images(name: str, n: int, seed: int) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, *NETWORKS[name][1], generator=g)


def network(name: str, seed: int) -> nn.Module:
    """In eval mode, all numbers by seed."""
    g = torch.Generator().manual_seed(seed)
    model = NETWORKS[name][0]().eval().requires_grad_(False)
    for key, x in model.state_dict().items():
        if key.endswith("running_var"):
            x.copy_(torch.rand(x.shape, generator=g) + 0.5)
        elif x.is_floating_point():
            spread = x[0].numel() ** -0.5 if x.dim() > 1 else 0.3
            x.copy_(torch.randn(x.shape, generator=g) * spread)
    return model


@functools.cache
def quantized(name: str, *, target: Target = OnnxRuntime()) -> tuple[nn.Module, Graph, bytes]:
    """The planned network, the graph of the original, the file; the target says what is tied."""
    model, data = network(name, 0), Data(inputs=images(name, 64, 1))
    task = Task(name=name, model=model, calibrate=data, search=data, certify=data)
    graph = trace(model, task.forward, task.example())
    space = precision.space(graph, target)
    for choice in space.choices:
        space = space.pin(choice.site, "A8" if choice.site.endswith(".input") else "W8")
    bank = Bank(model, graph=graph, stats=calibrate(task, model, needed(space)))
    options = space.options((0,) * len(space.choices))
    planned = settled_(bank.copy(bank.standins(options)), graph)
    return planned, graph, to_onnx(deploy(planned, graph), task.example())
