"""Laws of what a step does: computes, reuses or is left out; and of tensors that follow it."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import nn

from allot.errors import InputError, PlanError
from allot.num.formats import UInt
from allot.num.live_ranges import AtRunTime
from allot.option import Option, Stats
from allot.options.by_step import ByStep
from allot.options.steps import Compute, Drop, Reuse, StepOption
from allot.options.tensors import ActivationFormat
from allot.samplers.graph import graph_of
from allot.sampling.moment import Moment, Request, told
from allot.sampling.sampler import Dropped, Step
from allot.sampling.spans import HOLD, Taylor
from allot.site import Graph, Site
from allot.testing import OptionLaws
from tests import tiny_sampler as tiny


def live(bits: int) -> ActivationFormat:
    return ActivationFormat(grid=UInt(bits=bits), ranges=AtRunTime())


BOTH = ByStep(formats=(live(8), live(4)))


@cache
def whole() -> tuple[nn.Module, Graph]:
    model = tiny.sampler(3)
    noise = torch.randn(2, *tiny.SHAPE, generator=torch.Generator().manual_seed(0))
    return model, graph_of(model, {"noise": noise, "label": torch.tensor([0, 1])})


class TestCompute(OptionLaws):
    def option(self) -> Option:
        return Compute(bits=8)

    def original(self) -> Option:
        return Compute()

    def place(self) -> tuple[nn.Module, Graph, Site, Stats]:
        model, graph = whole()
        return model, graph, graph.site("steps.1"), {}


class TestDrop(TestCompute):
    def option(self) -> Option:
        return Drop()


class TestReuse(TestCompute):
    def option(self) -> Option:
        return Reuse(name="the deep part", spans=(tiny.DEEP,), predictor=Taylor(), bits=8)


class TestByStep(OptionLaws):
    def option(self) -> Option:
        return BOTH

    def original(self) -> Option:
        return ByStep()

    def place(self) -> tuple[nn.Module, Graph, Site, Stats]:
        model, graph = whole()
        return model, graph, graph.site("denoiser.blocks.1.conv.input"), {}


def applied(option: StepOption) -> nn.Module:
    model, graph = whole()
    site = graph.site("steps.2")
    step = model.get_submodule("steps.2")
    return option.apply(step, touch=site.touches[0], site=site, graph=graph, stats={})


def test_every_option_makes_the_step_that_it_names() -> None:
    reuse = applied(Reuse(spans=(tiny.DEEP,), bits=4))
    assert isinstance(reuse, Step) and reuse.index == 2
    assert reuse.way.bits == 4 and dict(reuse.way.reuse) == {tiny.DEEP: HOLD}
    compute = applied(Compute(bits=8))
    assert isinstance(compute, Step) and compute.way.bits == 8 and not compute.way.reuse
    assert isinstance(applied(Drop()), Dropped)


def test_only_what_lies_in_a_span_is_not_computed() -> None:
    reuse = Reuse(spans=(tiny.DEEP,))
    inside = [m for m in ("enter", "blocks.0.conv", "blocks.1.conv", "blocks.2", "leave")
              if not reuse.computes(m)]  # fmt: skip
    assert inside == ["blocks.1.conv", "blocks.2"]
    assert Compute().computes("blocks.1.conv") and not Drop().computes("enter")


def test_nothing_to_reuse_is_refused() -> None:
    with pytest.raises(InputError, match="at least one span"):
        Reuse(spans=())


def quantized() -> nn.Module:
    _, graph = whole()
    site = graph.site("denoiser.blocks.1.conv.input")
    return BOTH.apply(nn.Identity(), touch=site.touches[0], site=site, graph=graph, stats={})


def moment(bits: int | None) -> Moment:
    return Moment(step=0, level=tiny.grid().level(0), request=Request(), bits=bits)


@pytest.mark.parametrize("bits", (8, 4))
def test_a_tensor_has_as_many_values_as_the_moment_says(bits: int) -> None:
    edge, x = quantized(), torch.randn(1, 400, generator=torch.Generator().manual_seed(0))
    assert torch.equal(edge(x), x)
    with told(edge, moment(None)):
        assert torch.equal(edge(x), x)
    with told(edge, moment(bits)):
        assert 2 ** (bits - 1) < len(edge(x).unique()) <= 2**bits
    assert torch.equal(edge(x), x)


def test_bits_without_a_quantizer_are_refused() -> None:
    with pytest.raises(PlanError, match="6 bits, not 8, 4"), told(quantized(), moment(6)):
        pass


def test_one_format_for_every_width() -> None:
    with pytest.raises(InputError, match="one format for every width"):
        ByStep(formats=(live(8), live(8)))
