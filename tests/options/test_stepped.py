"""Laws of a tensor with a range of its own at every step.

Faults these laws must catch: the range of another step; a table that loses digits in a file;
zero points that were left out; ranges of one sampler used in another.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from allot.errors import InputError
from allot.num.activation_ranges import MinMax, Seen, Shrink
from allot.num.affine import rounded
from allot.num.formats import Int, UInt
from allot.option import Option, Stats
from allot.options.standins import QuantizedInput, QuantizedOutput
from allot.options.stepped import Stepped, stepped
from allot.sampling.moment import Level, Moment, Request, told
from allot.site import Graph, Site
from allot.testing import OptionLaws
from tests import toys
from tests.options.test_tensors import placed

TIMES = (900.0, 500.0, 100.0)


def moment(step: int, time: float) -> Moment:
    return Moment(step=step, level=Level(time=time, signal=0.6, noise=0.8), request=Request())


def seen(step: int) -> Seen:
    x = torch.randn(1, 300, generator=torch.Generator().manual_seed(step)) * 3**step
    return Seen(values=x, low=x.amin(1), high=x.amax(1))


def table(rule: MinMax | Shrink = MinMax()) -> Stepped:  # noqa: B008 - frozen
    found = [rule.fit(seen(s), UInt(bits=4)) for s in range(3)]
    return stepped(found, UInt(bits=4), times=TIMES)


class TestStepped(OptionLaws):
    site = "conv2.input"

    def option(self) -> Option:
        return table()

    def original(self) -> Option:
        return Stepped(grid=None)

    def place(self) -> tuple[nn.Module, Graph, Site, Stats]:
        return placed(self.option(), self.site)


class TestSteppedAtAnInput(TestStepped):
    site = "conv1.input"


@pytest.mark.parametrize("rule", (MinMax(), Shrink()))
@pytest.mark.parametrize("site", ("conv1.input", "conv2.input"))
def test_every_step_has_the_range_that_the_rule_finds_for_it(
    rule: MinMax | Shrink, site: str
) -> None:
    option = table(rule)
    model, graph, where, _ = placed(option, site, toys.chain)
    touch = where.touches[0]
    module = model.get_submodule(touch.module)
    new = option.apply(module, touch=touch, site=where, graph=graph, stats={})
    assert isinstance(new, QuantizedInput | QuantizedOutput)
    x: Tensor = seen(1).values.view(1, 3, 10, 10)
    for step in range(3):
        scale, zero = rule.fit(seen(step), UInt(bits=4))
        with told(new, moment(step, TIMES[step])):
            assert torch.equal(new.quantize(x), rounded(x, scale, zero, UInt(bits=4)))
    assert torch.equal(new.quantize(x), x)


def test_it_is_labelled_and_billed_by_its_grid() -> None:
    assert (table().label, Stepped(grid=None).label) == ("A4steps3", "float")
    assert table().effect(placed(table())[2]).compute_bits == 4


@pytest.mark.parametrize(
    ("scales", "zeros"), (((), ()), ((0.1,), ()), ((0.1, -1.0), (0, 0)), ((0.0,), (0,)))
)
def test_a_table_without_a_range_for_every_step_is_refused(
    scales: tuple[float, ...], zeros: tuple[int, ...]
) -> None:
    with pytest.raises(InputError, match="for every step"):
        Stepped(grid=Int(bits=4), scales=scales, zeros=zeros, times=(1.0,) * len(zeros))
    with pytest.raises(InputError, match="for every step"):
        Stepped(grid=None, scales=(1.0,), zeros=(0,), times=(1.0,))
    with pytest.raises(InputError, match="1 zero points and 0 times"):
        Stepped(grid=Int(bits=4), scales=(1.0,), zeros=(0,))
