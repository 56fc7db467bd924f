"""Small transformers for rewrites: gated and grouped as Llama, or with layer norms as ViT."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from allot.rewrites.norms import norm_kind
from allot.task import Task
from tests import attention, toys
from tests.rewrites import proofs

WIDTH, HEAD = 12, 4


class OwnNorm(nn.Module):
    """An RMS norm that is none of torch's."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))

    def forward(self, x: Tensor) -> Tensor:
        return self.weight * (x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-6))


class GatedLayer(nn.Module):
    """Three heads of queries, one of keys and values; gated feed-forward; norms first."""

    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.norm2 = OwnNorm(WIDTH), nn.RMSNorm(WIDTH, eps=1e-6)
        self.q, self.o = (nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(2))
        self.k, self.v = (nn.Linear(WIDTH, HEAD, bias=False) for _ in range(2))
        self.up, self.gate = (nn.Linear(WIDTH, 16, bias=False) for _ in range(2))
        self.down = nn.Linear(16, WIDTH, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm1(x)
        n, t, _ = y.shape
        q, k, v = (f(y).view(n, t, -1, HEAD).transpose(1, 2) for f in (self.q, self.k, self.v))
        k, v = (a.expand(n, 3, t, HEAD) for a in (k, v))
        mixed = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.o(mixed.transpose(1, 2).reshape(n, t, WIDTH))
        y = self.norm2(x)
        return x + self.down(functional.silu(self.gate(y)) * self.up(y))


class Gated(nn.Module):
    """Tokens [n, t] -> [n, t, 7]."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(7, WIDTH)
        self.layers = nn.ModuleList(GatedLayer() for _ in range(2))
        self.norm = nn.RMSNorm(WIDTH, eps=1e-6)
        self.head = nn.Linear(WIDTH, 7, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.embed(x)
        for layer in self.layers:
            x = layer(x)
        return self.head(self.norm(x))


def steady(model: nn.Module, seed: int = 3) -> nn.Module:
    """Weights of norms drawn again around one, in place, so that none is next to zero."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if norm_kind(module):
                weight = module.weight
                assert isinstance(weight, Tensor)
                weight.copy_(0.7 + 0.6 * torch.rand(weight.shape, generator=g))
    return model


def gated() -> Task:
    """A language task; the first token is the same everywhere."""
    tokens = torch.randint(0, 7, (36, 9), generator=torch.Generator().manual_seed(2))
    tokens[:, 0] = 0
    return proofs.of(steady(toys.seeded(Gated())), tokens)


def vision(**changes: Any) -> Task:
    """An image task of layer norms."""
    return proofs.of(steady(attention.vision(depth=2, **changes)), toys.images(36))


def planted(
    task: Task, places: Mapping[str, Sequence[str]], *, size: float = 30.0, every: int = 5
) -> Task:
    """The same function with some channels of norms or linears `size` times as large, and the
    columns of those that read them so much smaller; in place on a fresh toy."""
    with torch.no_grad():
        for source, readers in places.items():
            made = task.model.get_submodule(source)
            for name in ("weight", "bias"):
                p = made._parameters.get(name)
                if p is not None:
                    p[1::every] *= size
            for reader in readers:
                weight = task.model.get_submodule(reader).weight
                assert isinstance(weight, Tensor)
                weight[:, 1::every] /= size
    return task


GATED_NORMS = {
    f"layers.{i}.{norm}": [f"layers.{i}.{r}" for r in readers]
    for i in range(2)
    for norm, readers in (("norm1", "qkv"), ("norm2", ("up", "gate")))
}
GATED_PRODUCTS = {f"layers.{i}.up": [f"layers.{i}.down"] for i in range(2)}
VISION_NORMS = {
    f"layers.{i}.{norm}": [f"layers.{i}.{r}" for r in readers]
    for i in range(2)
    for norm, readers in (
        ("norm1", ("attention.query", "attention.key", "attention.value")),
        ("norm2", ("up",)),
    )
}


@contextmanager
def rounded(model: nn.Module, weights: int, inputs: int) -> Iterator[nn.Module]:
    """Every linear's weight per row and input per token on symmetric integers, for a while."""
    linears = [m for m in model.modules() if type(m) is nn.Linear]
    had = [m.weight.data for m in linears]
    handles = [m.register_forward_pre_hook(_rounder(inputs)) for m in linears]
    try:
        for m in linears:
            m.weight.data = nearest(m.weight.data, weights)
        yield model
    finally:
        for m, w in zip(linears, had, strict=True):
            m.weight.data = w
        for h in handles:
            h.remove()


def _rounder(bits: int) -> Any:
    def before(module: nn.Module, args: Any) -> Any:
        return (nearest(args[0], bits), *args[1:])

    return before


def nearest(x: Tensor, bits: int) -> Tensor:
    """Symmetric integers, a scale per row of the last dim."""
    if not x.numel():
        return x
    top = 2 ** (bits - 1) - 1
    scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-12) / top
    return (x / scale).round().clamp(-top, top) * scale


def loss(task: Task, wanted: Tensor, *, weights: int = 4, inputs: int) -> float:
    """Mean squared error of the output on calibration and search inputs."""
    with rounded(task.model, weights, inputs) as model, torch.no_grad():
        got = torch.cat([task.forward(model, d.inputs) for d in (task.calibrate, task.search)])
    return float((got - wanted).square().mean())


def outputs(task: Task) -> Tensor:
    """Of calibration and search inputs."""
    with torch.no_grad():
        both = (task.calibrate, task.search)
        return torch.cat([task.forward(task.model, d.inputs) for d in both])


def check_helps(
    task: Task, new: Task, *, weights: int = 4, inputs: int = 8, share: float = 1.0
) -> None:
    """Rounded to so many bits, the new network loses less than `share` of what the old does."""
    wanted = outputs(task)
    before, after = (loss(t, wanted, weights=weights, inputs=inputs) for t in (task, new))
    assert after < share * before, (before, after)
