"""Smoothing with factors of ranges of steps.

Faults these laws must catch: factors that do not cancel; the copy of another range; copies that
nobody pays for; a layer that computes something outside of a run.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from allot import bill
from allot.bank import Bank
from allot.errors import InputError, ModelError
from allot.num.formats import Int
from allot.num.live_ranges import AtRunTime
from allot.option import Option, Stats
from allot.options.precision import Activation, Weight
from allot.options.sharing import PerToken
from allot.options.tensors import ActivationFormat
from allot.part import load
from allot.samplers.smoothing import Factors, SmoothedTensor, SmoothedWeight, smoothed
from allot.samplers.trajectory import Visited, visited
from allot.sampling.by_range import ByRange
from allot.sampling.sampler import Sampler
from allot.site import Graph, Site
from allot.space import Choice, Space
from allot.sweep import find, unwrapped
from allot.task import call
from allot.testing import OptionLaws
from allot.trace import trace
from tests.sampling import nets

TOKENS = ActivationFormat(grid=Int(bits=8), sharing=PerToken(), ranges=AtRunTime())
FACTORS = Factors(values=((2.0,) * 4 + (0.5,) * 4, (1.0,) * 8), first=(3,))


def made() -> tuple[Sampler, Graph, Visited]:
    sampler = nets.blocks()
    sampler.denoiser.float()
    with torch.no_grad():  # channels of very different size meet the layers
        for i in range(4):
            ff = sampler.denoiser.get_submodule(f"blocks.{i}.ff.0")
            ff.weight[:, 3] *= 40  # type: ignore[index]
    seeds = nets.seeds(6, sampler)
    seen = visited(sampler, replace(seeds, noise=seeds.noise.float()))
    return sampler, trace(sampler.denoiser, call, seen.rows(torch.arange(2)).inputs), seen


def place(option: Option, site: str) -> tuple[nn.Module, Graph, Site, Stats]:
    sampler, graph, _ = made()
    return sampler.denoiser, graph, graph.site(site), {}


class TestSmoothedTensor(OptionLaws):
    def option(self) -> Option:
        return SmoothedTensor(format=TOKENS, factors=FACTORS)

    def original(self) -> Option:
        return SmoothedTensor()

    def place(self) -> tuple[nn.Module, Graph, Site, Stats]:
        return place(self.option(), "blocks.0.ff.0.input")


class TestSmoothedWeight(OptionLaws):
    def option(self) -> Option:
        return SmoothedWeight(bits=4, factors=FACTORS)

    def original(self) -> Option:
        return SmoothedWeight(bits=32)

    def place(self) -> tuple[nn.Module, Graph, Site, Stats]:
        return place(self.option(), "blocks.0.ff.0.weight")


def options(first: tuple[int, ...], strength: float = 0.5) -> dict[str, Option]:
    sampler, graph, seen = made()
    sites = [s.name for s in graph.sites if s.kind == "activation"]
    return smoothed(
        sampler.denoiser, graph, seen, sites=sites, bits=8, format=TOKENS, first=first,
        strength=strength,
    )  # fmt: skip


def quantized(found: dict[str, Option]) -> tuple[Sampler, Sampler, Visited]:
    sampler, graph, seen = made()
    bank = Bank(sampler.denoiser, graph=graph, stats={})
    return sampler, Sampler(denoiser=bank.copy(bank.standins(found)), grid=sampler.grid), seen


def error(found: dict[str, Option]) -> float:
    sampler, new, seen = quantized(found)
    some = seen.rows(seen.step == 0)
    with torch.no_grad():
        a, b = (s(some.x, **some.conditions) for s in (sampler, new))
    return float((a - b).square().mean() / a.square().mean())


def test_factors_cancel_and_tame_what_stands_out() -> None:
    assert error(options(())) < 1e-3 and error(options((2, 4))) < 1e-3
    plain: dict[str, Option] = {}
    for name, o in options(()).items():
        eight = ActivationFormat(grid=Int(bits=8), sharing=PerToken(), ranges=AtRunTime())
        plain[name] = (
            eight
            if isinstance(o, SmoothedTensor)
            else SmoothedWeight(
                bits=8,
                factors=Factors(values=((1.0,) * len(o.factors.values[0]),)),  # type: ignore
            )
        )
    assert error(options(())) < error(plain)


def test_each_range_has_a_copy_and_the_step_takes_its_own() -> None:
    found = options((2, 4))
    weight = found["blocks.0.ff.0.weight"]
    assert isinstance(weight, SmoothedWeight) and weight.factors.ranges == 3
    assert len(set(weight.factors.values)) == 3
    _, new, seen = quantized(found)
    layer = unwrapped(find(new.denoiser, "blocks.0.ff.0"))
    assert isinstance(layer, ByRange)
    used: list[int] = []
    for i, part in enumerate(layer.parts):
        part.register_forward_hook(lambda m, a, y, i=i: used.append(i))
    some = seen.rows(seen.step == 0)
    with torch.no_grad():
        new(some.x, **some.conditions)
    assert used == [0, 0, 1, 1, 2, 2]
    with pytest.raises(ModelError, match="within a run"):
        new.denoiser(some.x, some.time, **some.conditions)


@pytest.mark.parametrize("ranges", (1, 2, 4))
def test_every_copy_is_paid_for(ranges: int) -> None:
    _, graph, _ = made()
    option = SmoothedWeight(
        bits=4, factors=Factors(values=((1.0,) * 8,) * ranges, first=tuple(range(1, ranges)))
    )
    choice = Choice(site="blocks.0.ff.0.weight", options=(Weight(bits=32), option))
    table = bill.size(Space(graph=graph, choices=(choice,)), header=0)
    codes, scales, factors = 16 * 8 // 2, 16 * 4, 8 * 4
    saved = table.of((0,)) - table.of((1,))
    assert saved == 4 * 16 * 8 - ranges * (codes + scales + factors)
    assert Activation(bits=8).effect(graph.sites[0]).compute_bits == 8


def test_tables_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="2 rows of factors do not fit 1 ranges"):
        Factors(values=((1.0,), (1.0,)))
    with pytest.raises(InputError, match="ascending steps"):
        Factors(values=((1.0,),) * 3, first=(4, 2))
    with pytest.raises(InputError, match="positive"):
        Factors(values=((0.0,),))
    with pytest.raises(InputError, match="no evaluation lies within steps 7"):
        options((7, 9))
    assert load(FACTORS.dump()) == FACTORS
