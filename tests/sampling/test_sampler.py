"""A sampler: batches, repetition, dropped steps, guidance, interrupted runs, faulty networks.

Faults that these tests must find: state that outlives a run; samples that depend on their batch
mates; a dropped step that still moves; guidance applied the wrong way round; a fault blamed on the
wrong step or module.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from allot.errors import ModelError
from allot.sampling.grid import Grid
from allot.sampling.moment import Moment, Timed
from allot.sampling.sampler import Dropped, Guidance, Sampler, Step, Way
from allot.sampling.spans import HOLD, RESIDUAL, Span

STEPS = 6
ANGLES = [1.5 - 0.25 * i for i in range(STEPS)]
SPAN = Span(name="middle", modules=("blocks.1", "blocks.2"), keeps=RESIDUAL)


def grid(order: int = 1) -> Grid:
    return Grid(
        times=tuple(100.0 * (STEPS - i) for i in range(STEPS)),
        signals=tuple(math.cos(a) for a in ANGLES),
        noises=tuple(math.sin(a) for a in ANGLES),
        order=order,
    )


class Block(nn.Module):
    """A residual block that remembers which moments it was told of."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.linear = nn.Linear(8, 8)
        self.moment: Moment | None = None

    def at(self, moment: Moment | None) -> None:
        self.moment = moment

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.tanh(self.linear(x))


class Denoiser(nn.Module):
    """x [n, 8], time [n], label [n] -> [n, 8]; fails at the step it is told to."""

    def __init__(self, fails: int | None = None) -> None:
        nn.Module.__init__(self)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.blocks = nn.ModuleList(Block() for _ in range(4))
            self.last = nn.Linear(8, 8)
            self.classes = nn.Embedding(4, 8)
        self.fails = fails

    def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
        x = x + torch.cos(time / 100)[:, None] + self.classes(label)
        for block in self.blocks:
            x = block(x)
            moment = block.moment
            if moment is not None and moment.step == self.fails:
                raise RuntimeError("interrupted")
        return self.last(x)


def made(order: int = 1, **more: object) -> Sampler:
    denoiser = Denoiser().requires_grad_(False)
    return Sampler(denoiser=denoiser, grid=grid(order), spans=(SPAN,), **more)  # type: ignore[arg-type]


def noise(n: int = 8) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(n, 8, generator=generator), torch.arange(n) % 3


def planned(order: int = 1) -> Sampler:
    """A sampler with a dropped step and two that reuse a span."""
    s = made(order, guidance=Guidance(scale=2.0, without={"label": 3}))
    s.steps[1] = Dropped()
    for i in (2, 4):
        s.steps[i] = Step(index=i, way=Way(reuse={SPAN: HOLD}))
    return s


@pytest.mark.parametrize("order", [1, 2])
def test_a_batch_of_one_is_its_row_of_a_batch_of_eight(order: int) -> None:
    x, label = noise()
    s = planned(order)
    torch.testing.assert_close(s(x, label=label)[5:6], s(x[5:6], label=label[5:6]))


@pytest.mark.parametrize("order", [1, 2])
def test_two_runs_in_a_row_are_equal(order: int) -> None:
    x, label = noise()
    s = planned(order)
    first = s(x, label=label)
    s(torch.randn_like(x), label=label)
    assert torch.equal(first, s(x, label=label))


def test_the_noise_is_not_changed() -> None:
    x, label = noise()
    before = x.clone()
    planned()(x, label=label)
    assert torch.equal(before, x)


def test_an_interrupted_run_leaves_nothing() -> None:
    x, label = noise()
    s = planned()
    wanted = s(x, label=label)
    modules = [(n, id(m)) for n, m in s.named_modules()]
    denoiser = s.denoiser
    assert isinstance(denoiser, Denoiser)
    for step in (0, 2, 5):
        denoiser.fails = step
        with pytest.raises(RuntimeError, match="interrupted"):
            s(x, label=label)
        denoiser.fails = None
        assert modules == [(n, id(m)) for n, m in s.named_modules()]
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in s.modules())
        assert all(m.moment is None for m in s.modules() if isinstance(m, Block))
        assert torch.equal(wanted, s(x, label=label))


@pytest.mark.parametrize("order", [1, 2])
def test_a_dropped_step_is_that_of_a_grid_without_it(order: int) -> None:
    x, label = noise()
    s = made(order)
    s.steps[2] = Dropped()
    g = grid(order)
    keep = [i for i in range(STEPS) if i != 2]
    shorter = Grid(
        times=tuple(g.times[i] for i in keep),
        signals=tuple(g.signals[i] for i in keep),
        noises=tuple(g.noises[i] for i in keep),
        order=order,
    )
    wanted = Sampler(denoiser=Denoiser().requires_grad_(False), grid=shorter)
    torch.testing.assert_close(wanted(x, label=label), s(x, label=label))


def test_a_dropped_first_step_starts_at_the_second() -> None:
    x, label = noise()
    s = made()
    s.steps[0] = Dropped()
    g = grid()
    later = Grid(times=g.times[1:], signals=g.signals[1:], noises=g.noises[1:])
    wanted = Sampler(denoiser=Denoiser().requires_grad_(False), grid=later)
    torch.testing.assert_close(wanted(x, label=label), s(x, label=label))


def test_the_start_scales_the_noise() -> None:
    x, label = noise()
    s = made()
    wanted = s(2 * x, label=label)
    s.grid = Grid(**{**vars(s.grid), "start": 2.0})
    assert torch.equal(wanted, s(x, label=label))


def test_guidance_of_scale_one_is_none() -> None:
    x, label = noise()
    guided = made(guidance=Guidance(scale=1.0, without={"label": 3}))
    torch.testing.assert_close(made()(x, label=label), guided(x, label=label))


def test_guidance_of_scale_zero_is_the_other_condition() -> None:
    x, label = noise()
    guided = made(guidance=Guidance(scale=0.0, without={"label": 3}))
    other = made()(x, label=torch.full_like(label, 3))
    torch.testing.assert_close(other, guided(x, label=label))
    one = made(guidance=Guidance(scale=0.0, without={"label": torch.tensor([3])}))
    assert torch.equal(guided(x, label=label), one(x, label=label))


def test_what_both_conditions_kept_stays_apart() -> None:
    """With one condition for both, guidance of any scale is none, also where spans are reused."""
    x, label = noise()
    plain = planned()
    plain.guidance = None
    same = planned()
    same.guidance = Guidance(scale=5.0, without={"label": label})
    torch.testing.assert_close(plain(x, label=label), same(x, label=label))
    assert not torch.allclose(plain(x, label=label), planned()(x, label=label), atol=1e-3)


def test_gains_multiply_what_enters_and_what_leaves() -> None:
    x, label = noise()
    s = made()
    s.steps[3] = Step(index=3, way=Way(gain_out=2.0))
    other = made()
    denoiser = other.denoiser

    class Doubled(nn.Module):
        def __init__(self) -> None:
            nn.Module.__init__(self)
            self.inner = denoiser

        def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
            y: Tensor = self.inner(x, time, label)
            return torch.where(time[:, None] == grid().times[3], 2 * y, y)

    wanted = Sampler(denoiser=Doubled(), grid=grid())
    assert torch.equal(wanted(x, label=label), s(x, label=label))
    s.steps[3] = Step(index=3, way=Way(gain_x=0.5))
    assert not torch.allclose(other(x, label=label), s(x, label=label), atol=1e-3)


def test_timed_modules_are_told_every_moment_and_forget_it() -> None:
    x, label = noise()
    told: list[tuple[int, str, float] | None] = []

    class Listening(nn.Module):
        def at(self, moment: Moment | None) -> None:
            here = None if moment is None else (moment.step, moment.condition, moment.level.time)
            told.append(here)

        def forward(self, x: Tensor) -> Tensor:
            return x

    s = made(guidance=Guidance(scale=2.0, without={"label": 3}))
    listening = Listening()
    assert isinstance(listening, Timed)
    s.denoiser.add_module("listening", listening)
    s(x, label=label)
    g = grid()
    wanted = [(i, c, g.times[i]) for i in range(STEPS) for c in ("with", "without")]
    assert wanted == [t for t in told if t is not None]
    assert told[1::2] == [None] * len(wanted)


class Broken(Block):
    """Divides by zero at one step, around a block that does not."""

    def __init__(self, inner: nn.Module, step: int) -> None:
        nn.Module.__init__(self)
        self.inner, self.step = inner, step
        self.moment: Moment | None = None

    def forward(self, x: Tensor) -> Tensor:
        broken = self.moment is not None and self.moment.step == self.step
        y: Tensor = self.inner(x)
        return y / 0 if broken else y


@pytest.mark.parametrize("step", [0, 3])
def test_what_is_not_finite_is_blamed_on_its_step_and_module(step: int) -> None:
    x, label = noise()
    s = made()
    denoiser = s.denoiser
    assert isinstance(denoiser, Denoiser)
    denoiser.blocks[2] = Broken(denoiser.blocks[2], step)
    said = rf"step {step} \(time {grid().times[step]:g}\).*first in the output of blocks\.2$"
    with pytest.raises(ModelError, match=said):
        s(x, label=label)
    assert not any(m._forward_hooks for m in s.modules())


def test_latents_that_enter_broken_are_not_blamed_on_the_network() -> None:
    x, label = noise()
    x[2, 3] = math.nan
    with pytest.raises(ModelError, match=r"latents that enter step 0 \(time 600\)"):
        made()(x, label=label)


def test_the_levels_are_part_of_the_state() -> None:
    s = made()
    assert "levels" in s.state_dict()
    assert [f"steps.{i}" for i in range(STEPS)] == [
        n for n, m in s.named_modules() if isinstance(m, Step)
    ]
