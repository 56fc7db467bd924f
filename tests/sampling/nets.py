"""Tiny denoisers and the grid they are sampled on, fresh on each call, in float64."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from allot.sampling.features import Seeds
from allot.sampling.grid import Grid
from allot.sampling.sampler import Guidance, Sampler, Step, Way
from allot.sampling.spans import RESIDUAL, Span


class Block(nn.Module):
    """A residual block over tokens: attention and feed-forward, both modulated by a condition."""

    def __init__(self, wide: int) -> None:
        super().__init__()
        self.modulation = nn.Linear(wide, 2 * wide)
        self.norm = nn.LayerNorm(wide, elementwise_affine=False)
        self.attn = Mix(wide)
        self.ff = nn.Sequential(nn.Linear(wide, 2 * wide), nn.SiLU(), nn.Linear(2 * wide, wide))

    def forward(self, x: Tensor, *, emb: Tensor) -> Tensor:
        scale, gate = self.modulation(emb)[:, None].chunk(2, dim=-1)
        x = x + (1 + gate) * self.attn(self.norm(x) * (1 + scale))
        return x + self.ff(self.norm(x))


class Mix(nn.Module):
    def __init__(self, wide: int) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(wide, 3 * wide), nn.Linear(wide, wide)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = self.qkv(x).chunk(3, dim=-1)
        return self.out(nn.functional.scaled_dot_product_attention(q, k, v))


class Blocks(nn.Module):
    """Tokens [n, 6, 4] through four blocks, told of time and one of three classes (2: none)."""

    def __init__(self, wide: int = 8, depth: int = 4) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(4, wide), nn.Linear(wide, 4)
        self.classes, self.time = nn.Embedding(3, wide), nn.Linear(2, wide)
        self.blocks = nn.ModuleList(Block(wide) for _ in range(depth))

    def forward(self, x: Tensor, time: Tensor, *, label: Tensor) -> Tensor:
        emb = self.time(waves(time, x)) + self.classes(label)
        x = self.embed(x)
        for block in self.blocks:
            x = block(x, emb=emb)
        out: Tensor = self.head(x)
        return out


class Level(nn.Module):
    """On the way down: a convolution, then a coarser image; both are handed on."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.conv, self.time = nn.Conv2d(inside, outside, 3, padding=1), nn.Linear(2, outside)
        self.coarser = nn.Conv2d(outside, outside, 3, stride=2, padding=1)

    def forward(self, x: Tensor, *, emb: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        x = (self.conv(x) + self.time(emb)[:, :, None, None]).tanh()
        low = self.coarser(x)
        return low, (x, low)


class Up(nn.Module):
    """On the way up: joined with what the way down handed on."""

    def __init__(self, inside: int, skip: int, outside: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inside + skip, outside, 3, padding=1)
        self.steps = 2

    def forward(self, x: Tensor, handed: tuple[Tensor, ...], emb: Tensor) -> Tensor:
        fine, low = handed
        x = nn.functional.interpolate(x + low.mean(1, keepdim=True), scale_factor=2.0)
        out: Tensor = self.conv(torch.cat([x, fine], dim=1)).tanh()
        return out


class Levels(nn.Module):
    """A small UNet: [n, 1, 8, 8] down two levels and up again, unconditional."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(1, 4, 3, padding=1)
        self.down = nn.ModuleList([Level(4, 4), Level(4, 6)])
        self.middle = nn.Conv2d(6, 6, 3, padding=1)
        self.up = nn.ModuleList([Up(6, 6, 5), Up(5, 4, 4)])
        self.last = nn.Conv2d(4, 1, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        emb, x = waves(time, x), self.first(x)
        handed: tuple[tuple[Tensor, ...], ...] = ()
        for level in self.down:
            x, more = level(x, emb=emb)
            handed += (more,)
        x = self.middle(x)
        for up in self.up:
            assert up.steps == 2  # networks look at what their modules have
            x, handed = up(x, handed[-1], emb), handed[:-1]
        out: Tensor = self.last(x)
        return out


BLOCKS = Span(name="middle", modules=("blocks.1", "blocks.2"), keeps=RESIDUAL)
ALL = Span(name="all", modules=tuple(f"blocks.{i}" for i in range(4)), keeps=RESIDUAL)
DEEP = Span(name="deep", modules=("down.1", "middle", "up.0"))
ATTENTION = tuple(Span(name=f"attn {i}", modules=(f"blocks.{i}.attn",)) for i in range(4))
FEED = tuple(Span(name=f"ff {i}", modules=(f"blocks.{i}.ff",)) for i in range(4))


def waves(time: Tensor, like: Tensor) -> Tensor:
    t = time.to(like.dtype) / 1000
    return torch.stack([(3 * t).sin(), (7 * t).cos()], dim=1)


def grid(steps: int, *, end_noise: float = 0.0) -> Grid:
    """A cosine schedule, evenly spaced in time."""
    angles = [(1 - i / steps) * 0.48 * math.pi for i in range(steps)]
    return Grid(
        times=tuple(1000 * (1 - i / steps) for i in range(steps)),
        signals=tuple(math.cos(a) for a in angles),
        noises=tuple(math.sin(a) for a in angles),
        end_signal=math.sqrt(1 - end_noise**2),
        end_noise=end_noise,
    )


def seeded(make: type[nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().double().eval()


def blocks(steps: int = 6, *, guidance: float | None = None, seed: int = 0) -> Sampler:
    given = None if guidance is None else Guidance(scale=guidance, without={"label": 2})
    return Sampler(denoiser=seeded(Blocks, seed), grid=grid(steps), guidance=given)


def levels(steps: int = 6) -> Sampler:
    return Sampler(denoiser=seeded(Levels), grid=grid(steps))


def seeds(n: int, sampler: Sampler, seed: int = 0) -> Seeds:
    """Noise and conditions that fit one of the two."""
    g = torch.Generator().manual_seed(seed)
    tokens = isinstance(sampler.denoiser, Blocks)
    noise = torch.randn(n, *((6, 4) if tokens else (1, 8, 8)), generator=g, dtype=torch.float64)
    label = {"label": torch.randint(2, (n,), generator=g)} if tokens else {}
    return Seeds(noise=noise, conditions=label)


def planned(sampler: Sampler, ways: dict[int, Way]) -> Sampler:
    """The sampler's network, some steps taken in other ways."""
    new = Sampler(denoiser=sampler.denoiser, grid=sampler.grid, guidance=sampler.guidance)
    for i, way in ways.items():
        new.steps[i] = Step(index=i, way=way)
    return new


def sample(sampler: Sampler, s: Seeds, **changes: Any) -> Tensor:
    with torch.no_grad():
        out: Tensor = sampler(s.noise, **s.conditions, **changes)
    return out
