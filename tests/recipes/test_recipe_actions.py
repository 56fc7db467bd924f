"""Oracles of ActQuant: bits by brute force, scales by curvature, and a policy that is half deaf.

Faults these must catch: bits for what no action depends on; a budget that is not kept; a Fisher
diagonal that would have moved scales after all.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from allot.harm.hsic import hsic
from allot.num.clipping import MinMax, PNorm
from allot.num.formats import Float16, Format, UInt
from allot.options.formatted import Formatted
from allot.recipes.actions import ACTQUANT, actquant
from allot.recipes.bits import parsed
from allot.recipes.offered import space
from allot.runtimes.ideal import Ideal
from allot.searchers.knapsack import open_loop
from allot.space import Space
from allot.trace import trace
from tests import small, toys
from tests.harm import scenes
from tests.recipes import cooking

WIDTHS = (4, 3, 2)


class Policy(nn.Module):
    """Images [n, 3, 8, 8] -> 5 actions: of two eyes, one hardly matters to what is done."""

    def __init__(self) -> None:
        super().__init__()
        self.heard, self.unheard = nn.Linear(96, 16), nn.Linear(96, 16)
        self.mix, self.act = nn.Linear(16, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        left, right = x[..., :4].flatten(1), x[..., 4:].flatten(1)
        eyes = torch.tanh(self.heard(left)) + 1e-3 * torch.tanh(self.unheard(right))
        return self.act(torch.tanh(self.mix(eyes)))


def apart(original: Tensor, output: Tensor) -> Tensor:
    """Squared distance of actions [n, 5] -> [n]."""
    return (output - original).double().square().sum(1)


@cache
def dish() -> cooking.Dish:
    """The recipe on the policy's weights in groups of 16 of 2 to 4 bits."""

    def only_weights(graph: object, _: Space) -> Space:
        t = small.task(lambda: toys.seeded(Policy()), search=60)
        traced = trace(t.model, t.forward, t.example())
        found = space(traced, Ideal(), passes=actquant, bits=parsed("W4A16g16"), widths=WIDTHS)
        kept = tuple(c for c in found.choices if traced.site(c.site).kind == "weight")
        return Space(graph=traced, choices=kept)

    s = scenes.scene(
        lambda: toys.seeded(Policy()), space=only_weights, search=60, divergence=apart,
        recovery=scenes.NOT_REPAIRED,
    )  # fmt: skip
    return cooking.cook(ACTQUANT, s)


def bits_of(label: str) -> int:
    return 32 if label == "float" else int(label[1])


def test_the_plan_at_every_budget_is_that_of_brute_force() -> None:
    d = dish()
    assert d.scene.space.counts == (4, 4, 4, 4)
    for limits in d.trials.levels:
        within = [p for p in d.trials.plans if d.trials.fits(p, limits)]
        best = min(d.tables[0].of(p) for p in within)
        assert np.isclose(d.of(limits), best, rtol=1e-9, atol=1e-12)


def test_an_eye_that_no_action_depends_on_gets_the_fewest_bits() -> None:
    d = dish()
    names = [c.site for c in d.scene.space.choices]
    wider = 0
    for plan in d.trials.plans:
        bits = {
            n: bits_of(c.options[o].label)
            for n, c, o in zip(names, d.scene.space.choices, plan, strict=True)
        }
        assert bits["heard.weight"] >= bits["unheard.weight"]
        wider += bits["heard.weight"] > bits["unheard.weight"]
    assert wider


def test_it_decides_by_dependence_and_an_exact_knapsack() -> None:
    assert ACTQUANT.signals == (hsic,)
    assert ACTQUANT.searched(budgets=("size=20%",), max_drop=1) is open_loop


def test_without_bits_groups_of_32_have_scales_and_zero_points() -> None:
    weight = ACTQUANT.scheme("").weight  # type: ignore[union-attr]
    assert isinstance(weight, Formatted)
    assert weight.format == Format(grid=UInt(bits=4), group=32, scales=Float16(), asymmetric=True)
    assert actquant(parsed("W3A16g64")).weight.format.group == 64  # type: ignore[union-attr]
    assert actquant(parsed("W3A16")).activation is None


@pytest.mark.parametrize("bits", (2, 3))
def test_the_outputs_part_of_a_fisher_diagonal_moves_no_scale(bits: int) -> None:
    """Curvature h_i x_j: every row's scales are those of x_j alone, whatever h is."""
    g = torch.Generator().manual_seed(bits)
    w, x, h = (torch.randn(n, generator=g) for n in ((6, 32), (1, 32), (6, 1)))
    fmt = Format(grid=UInt(bits=bits), group=16, asymmetric=True)
    inputs, outputs = x.square() + 0.01, 4.0 ** h.round()
    plain = PNorm().fit(w, fmt, curvature=inputs.expand_as(w))
    mixed = PNorm().fit(w, fmt, curvature=inputs * outputs)
    assert torch.equal(plain.scale, mixed.scale)
    assert plain.zero is not None and mixed.zero is not None
    assert torch.equal(plain.zero, mixed.zero)


@pytest.mark.parametrize("bits", (2, 4))
def test_weighed_error_is_never_above_that_of_the_whole_range(bits: int) -> None:
    g = torch.Generator().manual_seed(bits)
    w, x = torch.randn(8, 64, generator=g), torch.randn(1, 64, generator=g).square()
    weight = actquant(parsed(f"W{bits}A16g16")).weight
    assert isinstance(weight, Formatted) and weight.format is not None
    assert weight.ranges == PNorm()
    errors = []
    for ranges in (weight.ranges, MinMax()):
        fit = ranges.fit(w, weight.format, curvature=x.expand_as(w))
        assert fit.zero is not None
        scale, zero = (weight.format.spread(s, 64) for s in (fit.scale, fit.zero))
        codes = fit.format.grid.nearest(w / scale + zero)
        e = (w - (fit.format.grid.values(codes) - zero) * scale).square() * x
        errors.append(e.view(8, 4, 16).sum(2))
    assert bool((errors[0] <= errors[1] * (1 + 1e-5)).all())
    assert float(errors[0].sum()) < float(errors[1].sum())
