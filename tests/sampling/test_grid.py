"""Levels, readings and moves of a grid, against the formulas of the papers, in float64.

Faults that these tests must find: signal and noise exchanged; a clip that is passed on to the
noise; a step of second order where there is no earlier one; a drop that leads to another level.
"""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import Tensor

from allot.sampling.grid import EPSILON, FLOW, SAMPLE, VELOCITY, Grid, Seen, stacked

ANGLES = (1.4, 1.1, 0.8, 0.5, 0.2)
GRID = Grid(
    times=(900.0, 700.0, 500.0, 300.0, 100.0),
    signals=tuple(math.cos(a) for a in ANGLES),
    noises=tuple(math.sin(a) for a in ANGLES),
)


def drawn(seed: int) -> Tensor:
    return torch.randn(3, 2, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def output(predicts: str, sample: Tensor, noise: Tensor, a: float, s: float) -> Tensor:
    """What an ideal network says, by the definitions of what networks predict."""
    said = {
        EPSILON: noise, SAMPLE: sample, VELOCITY: a * noise - s * sample, FLOW: noise - sample,
    }  # fmt: skip
    return said[predicts]


def grids() -> list[Grid]:
    flow = dataclasses.replace(GRID, predicts=FLOW, signals=tuple(1 - s for s in GRID.noises))
    kinds = (EPSILON, SAMPLE, VELOCITY)
    return [*(dataclasses.replace(GRID, predicts=p) for p in kinds), flow]


@pytest.mark.parametrize("grid", grids(), ids=lambda g: g.predicts)
def test_an_ideal_network_tells_sample_and_noise(grid: Grid) -> None:
    level = grid.level(2)
    sample, noise = drawn(0), drawn(1)
    x = level.signal * sample + level.noise * noise
    said = output(grid.predicts, sample, noise, level.signal, level.noise)
    seen = grid.read(x, said, level)
    torch.testing.assert_close(sample, seen.sample)
    torch.testing.assert_close(noise, seen.noise)


@pytest.mark.parametrize("grid", grids(), ids=lambda g: g.predicts)
@pytest.mark.parametrize("order", [1, 2])
def test_an_ideal_network_leads_to_the_same_sample_over_any_steps(grid: Grid, order: int) -> None:
    grid = dataclasses.replace(grid, order=order)
    sample, noise = drawn(0), drawn(1)
    for steps in ((0,), (0, 4), (0, 1, 2, 3, 4), (0, 2, 3)):
        x, past = noise, []
        for i in steps:
            level = grid.level(i)
            x = level.signal * sample + level.noise * noise if not past else x
            x = grid.move(x, past, level)
            wanted = level.signal * sample + level.noise * noise
            torch.testing.assert_close(wanted, x)
            said = output(grid.predicts, sample, noise, level.signal, level.noise)
            past.append(grid.read(x, said, level))
        end = grid.level(len(grid))
        torch.testing.assert_close(sample, grid.move(x, past, end, last=True))


def test_ddim_step_is_that_of_the_paper() -> None:
    """Song et al. 2021, equation 12 with sigma = 0, over a dropped level."""
    x, eps = drawn(2), drawn(3)
    a, b = GRID.signals[1] ** 2, GRID.signals[3] ** 2
    wanted = b**0.5 * (x - (1 - a) ** 0.5 * eps) / a**0.5 + (1 - b) ** 0.5 * eps
    seen = GRID.read(x, eps, GRID.level(1))
    torch.testing.assert_close(wanted, GRID.move(x, [seen], GRID.level(3)))


def test_second_order_step_is_that_of_the_paper() -> None:
    """Lu et al. 2022 (DPM-Solver++), algorithm 2, over a dropped level."""
    grid = dataclasses.replace(GRID, order=2)
    x, before, now = drawn(4), drawn(5), drawn(6)
    past = [
        Seen(level=grid.level(0), sample=before, noise=drawn(7)),
        Seen(level=grid.level(1), sample=now, noise=drawn(8)),
    ]
    to = grid.level(3)
    lam = [math.log(grid.signals[i] / grid.noises[i]) for i in (0, 1, 3)]
    h, r = lam[2] - lam[1], (lam[1] - lam[0]) / (lam[2] - lam[1])
    d = (1 + 1 / (2 * r)) * now - before / (2 * r)
    wanted = to.noise / grid.noises[1] * x - to.signal * (math.exp(-h) - 1) * d
    torch.testing.assert_close(wanted, grid.move(x, past, to))


def test_a_first_order_multistep_is_ddim() -> None:
    two = dataclasses.replace(GRID, order=2)
    x, eps = drawn(2), drawn(3)
    past = [GRID.read(x, eps, GRID.level(1))]
    torch.testing.assert_close(GRID.move(x, past, GRID.level(2)), two.move(x, past, two.level(2)))


@pytest.mark.parametrize("low", [True, False])
def test_the_last_step_is_of_first_order_where_the_grid_says_so(low: bool) -> None:
    grid = dataclasses.replace(
        GRID, order=2, last_first_order=low, end_signal=math.cos(0.1), end_noise=math.sin(0.1)
    )
    x = drawn(2)
    past = [grid.read(drawn(i), drawn(9), grid.level(i)) for i in (2, 3)]
    end = grid.level(len(grid))
    first = grid.move(x, past[-1:], end)
    assert low == torch.equal(first, grid.move(x, past, end, last=True))
    assert not torch.equal(first, grid.move(x, past, end))


def test_a_step_to_the_level_it_stands_at_changes_nothing() -> None:
    grid = dataclasses.replace(GRID, order=2)
    x = drawn(2)
    past = [grid.read(drawn(1), drawn(9), grid.level(2)), grid.read(x, drawn(9), grid.level(3))]
    torch.testing.assert_close(x, grid.move(x, past, grid.level(3)))


def test_a_clip_bounds_the_sample_and_leaves_the_noise() -> None:
    clipped = dataclasses.replace(GRID, clip=0.5)
    x, eps = 5 * drawn(2), drawn(3)
    free, seen = (g.read(x, eps, GRID.level(1)) for g in (GRID, clipped))
    assert float(free.sample.abs().max()) > 0.5
    assert torch.equal(free.sample.clamp(-0.5, 0.5), seen.sample)
    assert torch.equal(free.noise, seen.noise)


def test_before_the_first_evaluation_nothing_moves() -> None:
    x = drawn(0)
    assert x is GRID.move(x, [], GRID.level(3))


def test_the_level_behind_the_last_step_is_the_end() -> None:
    end = GRID.level(len(GRID))
    assert (1.0, 0.0) == (end.signal, end.noise)
    assert math.inf == end.log_snr


def test_the_stack_tells_grids_apart_by_their_levels() -> None:
    rows = stacked(GRID)
    assert (4, len(GRID) + 1) == rows.shape
    assert list(GRID.noises) == rows[2, :-1].tolist()
    for change in ({"end_noise": 0.1}, {"start": 2.0}, {"times": (901.0, *GRID.times[1:])}):
        assert not torch.equal(rows, stacked(dataclasses.replace(GRID, **change)))
