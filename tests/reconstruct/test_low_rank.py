"""Laws of low-rank rounding: what moves a weight has the rank asked for, and leaves no trace.

Faults these must catch: a product that is more than its rank, or is in another row's steps; codes
that move before anything is learned; codes off the grid; a stand-in with more to store than before;
a factor that is not learned; noise from the global generator.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from allot import part
from allot.errors import InputError
from allot.num.formats import Float16, Format, Int, UInt
from allot.num.rounding import Gptq, Nearest
from allot.option import Option
from allot.options.formatted import Formatted
from allot.options.precision import Weight
from allot.options.standins import OnGrid
from allot.reconstruct.learn import loss_of
from allot.reconstruct.low_rank import LowRankRounding
from allot.reconstruct.reconstruct import reconstructed
from allot.reconstruct.setting import Reconstruction
from allot.reconstruct.soft import Soft
from allot.reconstruct.units import Layers, Named
from allot.reconstruct.work import source, work
from allot.sweep import unwrapped
from tests import attention, small, toys

QUICK = Reconstruction(
    steps=20, batch=8, samples=24, rounding=LowRankRounding(rank=2, rate=0.1), drop=0.0,
    float_inputs=0.0, learn_steps=False,
)  # fmt: skip
GROUPED = Formatted(
    name="W3g3z",
    format=Format(grid=UInt(bits=3), group=3, scales=Float16(), asymmetric=True),
    rounding=Gptq(),
)
OPTIONS: tuple[Option, ...] = (
    Weight(bits=2),
    GROUPED,
    Formatted(name="W3r1", format=Format(grid=Int(bits=3)), rounding=Nearest(), rank=1),
)


def options(k: small.Kit, option: Option) -> dict[str, Option]:
    return {s.name: option for s in k.graph.sites if s.kind == "weight" and s.shape[1] % 3 == 0}


def start(option: Option, rounding: LowRankRounding) -> tuple[OnGrid, Soft, Tensor]:
    """A layer on its grid, what is learned of it, and its weight before rounding."""
    k = small.kit()
    layer = k.bank.standins(options(k, option))["conv1"]
    assert isinstance(layer, OnGrid)
    w = k.bank.module("conv1").weight
    assert isinstance(w, Tensor)
    return layer, rounding.soft(layer, w), w


def shaken(soft: Soft, size: float) -> Soft:
    """With factors of noise, as if they were learned."""
    with torch.no_grad():
        g = torch.Generator().manual_seed(5)
        soft.variable += size * torch.randn(soft.variable.shape, generator=g)
    return soft


def rows(soft: Soft) -> Tensor:
    """What is rounded, as rows of the weight."""
    return soft.frame.rows(soft.place().detach())  # type: ignore[operator]


@pytest.mark.parametrize("option", OPTIONS, ids=lambda o: o.label)
@pytest.mark.parametrize("rank", (0, 1, 3))
def test_a_weight_moves_by_the_rank_asked_for_and_no_more(option: Option, rank: int) -> None:
    _, soft, _ = start(option, LowRankRounding(rank=rank))
    before = rows(soft).double()
    moved = rows(shaken(soft, 1.0)).double() - before
    values = torch.linalg.svdvals(moved)
    assert int((values > 1e-5 * values.max().clamp(min=1e-9)).sum()) == rank
    assert soft.variable.numel() == rank * sum(moved.shape)


@pytest.mark.parametrize("option", OPTIONS, ids=lambda o: o.label)
def test_codes_are_those_of_before_until_something_is_learned(option: Option) -> None:
    layer, soft, _ = start(option, LowRankRounding(rank=2))
    assert torch.equal(soft.codes(), layer.encoded().codes)
    assert torch.allclose(soft.weight, layer.weight, atol=1e-6)
    assert torch.equal(soft.hard().encoded().codes, layer.encoded().codes)


@pytest.mark.parametrize("option", OPTIONS, ids=lambda o: o.label)
def test_what_is_fused_is_on_the_grid_and_has_nothing_beside_it(option: Option) -> None:
    layer, soft, _ = start(option, LowRankRounding(rank=2))
    soft = shaken(soft, 2.0)
    new = soft.hard()
    assert type(new) is type(layer)
    old, found = layer.encoded(), new.encoded()
    grid = found.format.grid
    assert grid.lo <= found.codes.min() and found.codes.max() <= grid.hi
    assert found.format == old.format and torch.equal(found.scale, old.scale)
    assert small.state(new).keys() == small.state(layer).keys()
    assert not torch.equal(found.codes, old.codes)
    assert torch.allclose(new.weight, soft.weight, atol=1e-6)


def test_both_factors_are_learned() -> None:
    _, soft, _ = start(OPTIONS[0], LowRankRounding(rank=2))
    soft = shaken(soft, 0.1)
    (g,) = torch.autograd.grad(soft.weight.square().sum(), [soft.variable])
    out = soft.inner.weight.shape[0]
    assert float(g[:out].abs().sum()) > 0 and float(g[out:].abs().sum()) > 0


def test_rank_0_leaves_every_code() -> None:
    k = small.kit()
    plan = options(k, OPTIONS[0])
    before = k.bank.standins(plan)
    none = replace(QUICK, rounding=LowRankRounding(rank=0))
    assert codes(reconstructed(k.bank, k.task, plan, standins=before, setting=none)) == codes(
        before
    )


def test_a_rank_above_the_matrixs_is_the_matrixs() -> None:
    whole, more = (
        shaken(start(OPTIONS[0], LowRankRounding(rank=r))[1], 1.0) for r in (8, 99)
    )  # fmt: skip
    assert whole.variable.shape == more.variable.shape
    assert torch.equal(whole.codes(), more.codes())


def codes(standins: dict[str, nn.Module]) -> dict[str, Any]:
    layers = {n: unwrapped(m) for n, m in standins.items()}
    return {n: m.encoded().codes.tolist() for n, m in layers.items() if isinstance(m, OnGrid)}


@pytest.mark.parametrize("make", (toys.chain, attention.made(depth=1)))
@pytest.mark.parametrize("unit", (QUICK.unit, Layers()))
def test_no_unit_is_worse_than_its_start_and_some_is_better(make: Any, unit: Any) -> None:
    k = small.kit(make)
    plan: dict[str, Option] = {s.name: Weight(bits=2) for s in k.graph.sites if s.kind == "weight"}
    before, better = dict(k.bank.standins(plan)), 0
    given = source(k.bank, k.task, QUICK, seed=0)
    for one in unit.of(k.graph):
        setting = replace(QUICK, unit=Named(units=(one,)))
        after = reconstructed(k.bank, k.task, plan, standins=before, setting=setting)
        doing = work(given, one, before)
        old, new = loss_of(doing, before), loss_of(doing, after)
        assert new <= old, one
        better += new < 0.999 * old
        before = after
    assert better


def test_the_same_seed_gives_the_same_and_the_global_generator_is_left() -> None:
    k = small.kit()
    plan = options(k, OPTIONS[0])
    torch.manual_seed(7)
    random = torch.get_rng_state()
    # long enough that what is learned is better than the start, which is kept otherwise
    rounding, long = LowRankRounding(rank=2, rate=0.05), replace(QUICK, steps=200)
    found = [
        codes(reconstructed(k.bank, k.task, plan, setting=replace(long, rounding=r)))
        for r in (rounding, rounding, replace(rounding, seed=1))
    ]
    assert torch.equal(random, torch.get_rng_state())
    assert found[0] == found[1] != found[2]


def test_a_recovery_that_tunes_can_be_written_and_read() -> None:
    assert part.load(QUICK.dump()) == QUICK


@pytest.mark.parametrize(("bad", "said"), [({"rank": -1}, "not below 0"), ({"rate": 0}, "above 0"),
                                           ({"rate": math.nan}, "above 0")])  # fmt: skip
def test_bad_input_is_told(bad: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        LowRankRounding(**bad)
