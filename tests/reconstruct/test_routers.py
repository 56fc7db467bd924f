"""Laws of router fidelity: the loss is a divergence of choices, and only routers are learned."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from allot import part
from allot.bank import Bank
from allot.calibrate import calibrate, needed
from allot.option import Option
from allot.options import precision
from allot.options.precision import Activation, Weight
from allot.options.standins import OnGrid
from allot.reconstruct.learn import loss_of
from allot.reconstruct.losses import Given, Goal
from allot.reconstruct.reconstruct import reconstructed
from allot.reconstruct.routers import RouterKL, Routers
from allot.reconstruct.setting import Reconstruction
from allot.reconstruct.soft import SoftRounding
from allot.reconstruct.work import source, work
from allot.rewrites.moe_smoothing import SharedSmoothing
from allot.rewrites.rewrite import rewritten
from allot.runtimes.ideal import Ideal
from allot.sweep import unwrapped
from allot.trace import trace
from tests import mixture, small

SETTING = Reconstruction(
    unit=Routers(), loss=RouterKL(), rounding=SoftRounding(), drop=0.0, float_inputs=0.0,
    learn_steps=False, steps=100, batch=16, samples=40,
)  # fmt: skip


def scores(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def value(given: Tensor, goal: Tensor) -> float:
    """The loss; the task's own divergence is not asked for."""

    def never(a: Tensor, b: Tensor) -> Tensor:
        raise AssertionError

    return float(RouterKL().value(Given(output=given), Goal(output=goal), never))


@pytest.mark.parametrize("shape", ((6, 4), (2, 3, 5)))
def test_it_is_the_mean_divergence_of_the_softmax_over_tokens(shape: tuple[int, ...]) -> None:
    a, b = scores(0, *shape), scores(1, *shape)
    p, q = (torch.softmax(x.double(), -1).reshape(-1, shape[-1]) for x in (b, a))
    by_hand = [sum(float(u * (u / v).log()) for u, v in zip(x, y, strict=True))
               for x, y in zip(p, q, strict=True)]  # fmt: skip
    assert value(a, b) == pytest.approx(sum(by_hand) / len(by_hand))


def test_it_is_0_where_the_choice_agrees_and_never_below() -> None:
    for seed in range(20):
        a = scores(seed, 5, 4)
        assert value(a, a) == 0
        # the same for every expert chooses the same
        assert value(a + 3, a) == pytest.approx(0, abs=1e-9)
        assert value(a, scores(seed + 50, 5, 4)) > 0


def test_only_routers_are_learned_and_they_agree_no_less() -> None:
    t = rewritten(mixture.task(mixture.rare(3, -1.0), n=120), [SharedSmoothing()])
    graph = trace(t.model, t.forward, t.example())
    assert Routers().of(graph) == (("router",),)
    stats = calibrate(t, t.model, needed(precision.space(graph, Ideal())))
    bank = Bank(t.model, graph=graph, stats=stats)
    bits: dict[str, Option] = {"weight": Weight(bits=2), "activation": Activation(bits=8)}
    plan = {s.name: bits[s.kind] for s in graph.sites if s.kind in bits and not s.fixed}
    before = bank.standins(plan)
    after = reconstructed(bank, t, plan, standins=before, setting=SETTING)
    assert [n for n in before if after[n] is not before[n]] == ["router"]
    doing = work(source(bank, t, SETTING, seed=0), ("router",), before)
    assert loss_of(doing, after) < loss_of(doing, before)
    layer, old = unwrapped(after["router"]), unwrapped(before["router"])
    assert isinstance(layer, OnGrid) and isinstance(old, OnGrid)
    assert torch.equal(layer.encoded().scale, old.encoded().scale)


def test_a_network_without_experts_is_left_as_it_is() -> None:
    k = small.kit()
    assert Routers().of(k.graph) == ()
    plan: dict[str, Option] = {s.name: Weight(bits=2) for s in k.graph.sites if s.kind == "weight"}
    before = k.bank.standins(plan)
    assert reconstructed(k.bank, k.task, plan, standins=before, setting=SETTING) == before


def test_a_recovery_that_learns_routers_can_be_written_and_read() -> None:
    assert part.load(SETTING.dump()) == SETTING
