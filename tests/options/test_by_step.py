"""Laws of a tensor whose width follows the step.

Faults these laws must catch: another width than the moment's; rounding outside of a run; a width
that nobody calibrated, taken for float; the range of another step.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from allot.errors import InputError, PlanError
from allot.num.activation_ranges import MinMax
from allot.num.formats import UInt
from allot.num.live_ranges import AtRunTime
from allot.option import Option, Stats
from allot.options.by_step import ByStep
from allot.options.sharing import PerToken
from allot.options.stepped import stepped
from allot.options.tensors import ActivationFormat
from allot.sampling.moment import told
from allot.site import Graph, Site
from allot.testing import OptionLaws
from tests import toys
from tests.options.test_stepped import TIMES, moment, seen
from tests.options.test_tensors import placed


def live(bits: int) -> ActivationFormat:
    return ActivationFormat(grid=UInt(bits=bits), sharing=PerToken(), ranges=AtRunTime())


class TestByStep(OptionLaws):
    def option(self) -> Option:
        return ByStep(formats=(live(8), live(4)))

    def original(self) -> Option:
        return ByStep()

    def place(self) -> tuple[nn.Module, Graph, Site, Stats]:
        return placed(self.option(), "conv2.input")


def edge(option: ByStep) -> nn.Module:
    model, graph, where, stats = placed(option, "conv2.input", toys.chain)
    touch = where.touches[0]
    module = model.get_submodule(touch.module)
    return option.apply(module, touch=touch, site=where, graph=graph, stats=stats)


def test_the_moment_says_the_width() -> None:
    new = edge(ByStep(formats=(live(8), live(4))))
    x = seen(1).values.view(1, 3, 10, 10)
    for bits in (8, 4):
        with told(new, replace(moment(0, 900.0), bits=bits)):
            y = new.quantize(x)
        assert len(y.unique()) <= 2**bits
        assert 0 < float((y - x).abs().max()) <= float(x.max() - x.min()) / (2**bits - 1)
    with told(new, moment(0, 900.0)):
        assert torch.equal(new.quantize(x), x)
    assert torch.equal(new.quantize(x), x)


def test_a_width_that_is_not_there_is_refused() -> None:
    new = edge(ByStep(formats=(live(8),)))
    refused = pytest.raises(PlanError, match="rounds to 4 bits, not 8")
    with refused, told(new, replace(moment(0, 900.0), bits=4)):
        pass
    with pytest.raises(InputError, match="one format for every width"):
        ByStep(formats=(live(8), live(8)))


def test_a_width_may_have_a_range_for_every_step() -> None:
    tables = tuple(
        stepped([MinMax().fit(seen(s), UInt(bits=b)) for s in range(3)], UInt(bits=b), times=TIMES)
        for b in (8, 4)
    )
    mixed = edge(ByStep(formats=tables))
    x = seen(1).values.view(1, 3, 10, 10)
    for bits, table in zip((8, 4), tables, strict=True):
        alone = edge(ByStep(formats=(table,)))
        for step in range(3):
            now = replace(moment(step, TIMES[step]), bits=bits)
            with told(mixed, now), told(alone, now):
                assert torch.equal(mixed.quantize(x), alone.quantize(x))
