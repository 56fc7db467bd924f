"""Laws of the discrepancy walk, and the linear program's vertex as the bound it is held to.

Faults these laws must catch: a vertex that leaves the constraints; more weights left between than
there are constraints; a walk that leaves the box; weights that are neither of their two values; a
gradient of the wrong sign; rows that hold on to something worse than nearest.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from allot.errors import InputError
from allot.num.adaround import pairs
from allot.num.discrepancy import DiscRounding, discquant, vertex, walk
from allot.num.formats import Grid, Int
from allot.num.quadratic import grouped
from allot.num.rounding import Nearest, Rounding
from allot.testing import RoundingLaws
from tests.num.test_freecodes import GRIDS, UNEVEN, case


class TestDiscRounding(RoundingLaws):
    formats = (Int(bits=2), Int(bits=8), UNEVEN)

    def rounding(self) -> Rounding:
        return DiscRounding(steps=48, rounds=4)


def drawn(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def boxed(n: int, seed: int) -> Tensor:
    return torch.rand(n, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def fractional(x: Tensor) -> int:
    return int(((x > 1e-9) & (x < 1 - 1e-9)).sum())


@pytest.mark.parametrize("m", (0, 1, 5, 20, 60))
def test_a_vertex_keeps_every_constraint_and_leaves_at_most_as_many_weights_between(m: int) -> None:
    for seed in range(5):
        g, x0, cost = drawn(m, 60, seed=seed), boxed(60, seed), drawn(60, seed=100 + seed)
        x = vertex(g, x0, cost=cost)
        assert fractional(x) <= m
        assert torch.allclose(g @ x0, g @ x, atol=1e-8)
        assert x.min() >= 0 and x.max() <= 1
        assert float(cost @ x) <= float(cost @ x0) + 1e-9


def test_constraints_that_repeat_each_other_count_once() -> None:
    g = drawn(4, 50, seed=1)
    x = vertex(torch.cat([g, 2 * g, g[:1] + g[1:2]]), boxed(50, 1), cost=drawn(50, seed=2))
    assert fractional(x) <= 4


def test_the_vertex_is_the_cheapest_of_all() -> None:
    n, m = 6, 2
    for seed in range(6):
        g, x0, cost = drawn(m, n, seed=seed), boxed(n, seed), drawn(n, seed=50 + seed)
        least = float("inf")
        for basis in itertools.combinations(range(n), m):
            rest = [i for i in range(n) if i not in basis]
            for ends in itertools.product((0.0, 1.0), repeat=n - m):
                x = torch.zeros(n, dtype=torch.float64)
                x[rest] = torch.tensor(ends, dtype=torch.float64)
                x[list(basis)] = torch.linalg.solve(g[:, list(basis)], g @ (x0 - x))
                if x.min() >= -1e-12 and x.max() <= 1 + 1e-12:
                    least = min(least, float(cost @ x))
        assert float(cost @ vertex(g, x0, cost=cost)) == pytest.approx(least, abs=1e-9)


def test_without_constraints_the_cost_of_distance_gives_nearest() -> None:
    x0 = boxed(40, 3)
    got = vertex(torch.zeros(0, 40, dtype=torch.float64), x0, cost=1 - 2 * x0)
    assert torch.equal((x0 >= 0.5).double(), got)


@pytest.mark.parametrize("grid", GRIDS)
def test_few_inputs_leave_all_but_few_weights_of_a_layer_rounded_at_no_error(grid: Grid) -> None:
    w, scale, _ = case(0, grid, rows=3, k=30)
    x = drawn(4, 30, seed=9)
    rows = grouped(w, scale, grid, (x.T @ x)[None])
    below, unit, fraction = pairs(rows)
    held = below.new_zeros(3, 30)
    for r in range(3):
        held[r] = vertex(x * unit[0, r], fraction[0, r], cost=1 - 2 * fraction[0, r])
        assert fractional(held[r]) <= 4
    original = grid.values(below[0]) * scale + fraction[0] * unit[0]
    moved = grid.values(below[0]) * scale + held * unit[0]
    assert torch.allclose(x @ original.T, x @ moved.T, atol=1e-7)


def test_a_start_outside_the_box_is_refused() -> None:
    outside = torch.tensor([0.5, 1.5], dtype=torch.float64)
    inside = outside / 2
    with pytest.raises(InputError, match="outside"):
        vertex(torch.ones(1, 2, dtype=torch.float64), outside, cost=outside)
    with pytest.raises(InputError, match="outside"):
        discquant([outside], [outside], [outside], flat, steps=1, seed=0)
    with pytest.raises(InputError, match="outside"):
        discquant([outside], [outside], [inside], flat, steps=1, seed=0, begin=[outside])
    with pytest.raises(InputError, match="same shapes"):
        discquant([outside], [outside[:1]], [outside], flat, steps=1, seed=0)


def flat(weights: list[Tensor], step: int) -> tuple[float, list[Tensor]]:
    return 0.0, [torch.zeros_like(w) for w in weights]


@pytest.mark.parametrize("warm", (0, 5))
def test_without_a_loss_the_walk_ends_at_the_vertex_that_it_is_pushed_to(warm: int) -> None:
    start = [boxed(30, 4), boxed(20, 5)]
    ends = walk(
        [torch.full_like(x, 0.5) for x in start],
        lambda x, _: [torch.zeros_like(v) for v in x],
        toward=start,
        steps=80,
        rounds=4,
        rate=0.1,
        strength=0.1,
        warm=warm,
    )
    assert all(torch.equal((s >= 0.5).double(), e) for s, e in zip(start, ends, strict=True))


@pytest.mark.parametrize("grid", GRIDS)
def test_no_row_is_worse_than_nearest_and_all_together_are_better(grid: Grid) -> None:
    lost = torch.zeros(2, dtype=torch.float64)
    for seed in range(4):
        w, scale, gram = case(seed, grid)
        rows = grouped(w, scale, grid, gram, damp=0.01)
        errors = [
            rows.error(r.codes(w, scale, grid, gram).double()[None])
            for r in (DiscRounding(), Nearest())
        ]
        assert bool((errors[0] <= errors[1]).all())
        lost += torch.stack([e.sum() for e in errors])
    assert lost[0] < 0.9 * lost[1], lost


def test_groups_are_rounded_each_alone() -> None:
    grid = Int(bits=3)
    cases = [case(s, grid, rows=2, k=9) for s in range(3)]
    w, scale, gram = (torch.cat([c[i] for c in cases]) for i in range(3))
    rounding = DiscRounding(steps=60, rounds=3)
    alone = torch.cat([rounding.codes(*c[:2], grid, c[2]) for c in cases])
    assert torch.equal(alone, rounding.codes(w, scale, grid, gram))


LossAndGrad = Callable[[list[Tensor], int], tuple[float, list[Tensor]]]


def network(seed: int) -> tuple[list[Tensor], LossAndGrad]:
    """Weights of two layers, and the divergence of outputs from those of these weights."""
    weights = [0.6 * drawn(16, 10, seed=seed), 0.6 * drawn(4, 16, seed=seed + 1)]
    x = drawn(128, 10, seed=seed + 2) @ drawn(10, 10, seed=seed + 3)

    def logits(parts: list[Tensor]) -> Tensor:
        return functional.log_softmax((x @ parts[0].T).relu() @ parts[1].T, dim=1)

    target = logits(weights)

    def loss_and_grad(parts: list[Tensor], step: int) -> tuple[float, list[Tensor]]:
        with torch.enable_grad():
            leaves = [p.detach().requires_grad_() for p in parts]
            loss = functional.kl_div(logits(leaves), target, log_target=True, reduction="batchmean")
            grads = torch.autograd.grad(loss, leaves)
        return float(loss), list(grads)

    return weights, loss_and_grad


def test_a_slow_walk_begins_where_it_is_told_and_a_random_one_elsewhere() -> None:
    low, high = [torch.zeros(50)], [torch.ones(50)]
    seen: list[Tensor] = []

    def loss_and_grad(weights: list[Tensor], step: int) -> tuple[float, list[Tensor]]:
        seen.append(weights[0].clone())
        return flat(weights, step)

    begin = [boxed(50, 6).float()]
    for seed in (0, 1):
        discquant(low, high, low, loss_and_grad, steps=1, rounds=1, seed=seed, begin=begin, warm=3)
        discquant(low, high, low, loss_and_grad, steps=1, rounds=1, seed=seed)
    assert torch.equal(begin[0], seen[1]) and torch.equal(begin[0], seen[5])
    assert not torch.equal(seen[3], seen[7])


def between(weights: list[Tensor], grid: Grid) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    lows, highs, starts = [], [], []
    for w in weights:
        scale = w.abs().amax(1, keepdim=True) / grid.reach[1]
        below = grid.below(w / scale)
        low, high = grid.values(below) * scale, grid.values(below + 1) * scale
        lows.append(low)
        highs.append(high)
        starts.append(((w - low) / (high - low)).clamp(0, 1))
    return lows, highs, starts


@pytest.mark.parametrize("grid", (Int(bits=3), UNEVEN))
def test_a_network_walks_to_less_divergence_than_nearest(grid: Grid) -> None:
    gains = []
    for seed in range(0, 20, 4):
        weights, loss_and_grad = network(seed)
        low, high, start = between(weights, grid)
        walked = discquant(low, high, start, loss_and_grad, steps=160, seed=0)
        for w, up, a, b in zip(walked.weights, walked.ups, low, high, strict=True):
            assert torch.equal(torch.where(up, b, a), w)
        assert 0 <= walked.between < 0.2 and len(walked.losses) == 160
        near = [torch.where(x >= 0.5, b, a) for x, a, b in zip(start, low, high, strict=True)]
        gains.append(loss_and_grad(walked.weights, 0)[0] / loss_and_grad(near, 0)[0])
    assert torch.tensor(gains).log().mean().exp() < 0.5, gains


def test_the_size_of_the_loss_does_not_matter_and_the_seed_decides_the_rest() -> None:
    weights, loss_and_grad = network(7)
    low, high, start = between(weights, Int(bits=3))

    def larger(parts: list[Tensor], step: int) -> tuple[float, list[Tensor]]:
        loss, grads = loss_and_grad(parts, step)
        return 1024 * loss, [1024 * g for g in grads]

    state = torch.get_rng_state()
    one, two, three = (
        discquant(low, high, start, f, steps=80, seed=s).ups
        for f, s in ((loss_and_grad, 1), (larger, 1), (loss_and_grad, 2))
    )
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(one, three, strict=True))
    assert torch.equal(state, torch.get_rng_state())
