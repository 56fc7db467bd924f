"""Laws of real architectures in small: what trace, quantizing and export must take in.

Faults these laws must catch: a quantized layer whose weight the network's own forward cannot look
at; an edge that takes no keywords; a stand-in lost in a forward by keywords; a tensor joined with
one of another step exported with the wrong one of two scales.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from allot.clock import predictions
from allot.runtimes import OpenVino
from allot.sweep import outputs
from allot.target import Workload
from allot.task import Data, Task
from benchmarks.runtime.sessions import batched
from benchmarks.runtime.uniform import uniform
from tests import toys


class Looks(nn.Module):
    """Casts its input to the type of its first weight, as vision transformers of libraries do."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x.to(self.first.weight.dtype)).relu().mean((2, 3))
        return self.last(x.to(self.last.weight.dtype))


class Inverted(nn.Module):
    """An inverted residual: 1x1, depthwise, 1x1 without activation, added to its input."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.stem = nn.Conv2d(3, 8, 3, padding=1, bias=False)
        self.wide, self.deep, self.thin = (
            nn.Conv2d(8, 16, 1, bias=False),
            nn.Conv2d(16, 16, 3, padding=1, groups=16, bias=False),
            nn.Conv2d(16, 8, 1, bias=False),
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(c) for c in (8, 16, 16, 8))
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu6(self.norms[0](self.stem(x)))
        y = functional.relu6(self.norms[1](self.wide(x)))
        y = functional.relu6(self.norms[2](self.deep(y)))
        x = x + self.norms[3](self.thin(y))
        return self.head(x.mean((2, 3)))


class Inner(nn.Module):
    """A small UNet: group norms, a time step scaled in, attention, a skip joined on the way up."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.enter, self.down = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 2, padding=1)
        self.norm, self.time = nn.GroupNorm(4, 8), nn.Linear(8, 8)
        self.query, self.key, self.value = (nn.Linear(8, 8) for _ in range(3))
        self.up, self.leave = nn.Conv2d(8, 8, 3, padding=1), nn.Conv2d(16, 3, 3, padding=1)

    def forward(self, sample: Tensor, timestep: Tensor, scale: float = 1.0) -> tuple[Tensor]:
        waves = timestep[:, None].float() * torch.linspace(0.01, 0.1, 4)
        time = self.time(functional.silu(torch.cat([waves.sin(), waves.cos()], 1)))
        skip = self.enter(sample)
        x = functional.silu(self.norm(self.down(skip))) + scale * time[:, :, None, None]
        n, c, h, w = x.shape
        tokens = x.flatten(2).transpose(1, 2)[:, None]
        made = functional.scaled_dot_product_attention(
            self.query(tokens), self.key(tokens), self.value(tokens)
        )
        x = x + made[:, 0].transpose(1, 2).reshape(n, c, h, w)
        x = self.up(functional.interpolate(x, scale_factor=2.0, mode="nearest"))
        return (self.leave(torch.cat([x, skip], 1)),)


class Denoiser(nn.Module):
    """Hands its inputs on by keywords, as wrappers around libraries do."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.inner = Inner()

    def forward(self, sample: Tensor, step: Tensor) -> Tensor:
        return self.inner(sample, timestep=step, scale=0.5)[0]


def task(make: Callable[[], nn.Module]) -> Task:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)  # layers draw their weights from it
        model = make().eval()
    x = toys.images(24)
    step = torch.arange(24) * 40
    data = Data(inputs={"sample": x, "step": step} if make is Denoiser else x)
    parts = [data.subset(slice(a, a + 8)) for a in (0, 8, 16)]
    return Task(
        name=make.__name__, model=model, calibrate=parts[0], search=parts[1], certify=parts[2]
    )


@pytest.fixture(scope="module", params=[Looks, Inverted, Denoiser])
def case(request: pytest.FixtureRequest) -> tuple[Task, bytes, bytes, int]:
    made = task(request.param)
    files = uniform(made, OpenVino())
    return made, files.original, files.quantized, files.layers


def test_every_layer_is_quantized_and_the_file_is_near_the_network(
    case: tuple[Task, bytes, bytes, int],
) -> None:
    made, original, quantized, layers = case
    known = [m for m in made.model.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert layers == len(known)
    wanted = outputs(made, made.model, made.certify, batch=4)
    for onnx, most in ((original, 1e-4), (quantized, 0.1)):
        session = OpenVino().open(onnx, workload=Workload(batch=4))
        got = predictions(session, made.certify.inputs, batch=4)
        assert float((got - wanted).norm() / wanted.norm()) <= most


def test_a_file_of_one_batch_size_computes_the_same(case: tuple[Task, bytes, bytes, int]) -> None:
    made, _, quantized, _ = case
    open_, fixed = (
        OpenVino().open(f, workload=Workload(batch=4)) for f in (quantized, batched(quantized, 4))
    )
    a, b = (predictions(s, made.certify.inputs, batch=4) for s in (open_, fixed))
    assert np.array_equal(a.numpy(), b.numpy())
