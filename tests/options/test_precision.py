"""Laws of precision: what an option bills, what it leaves alone, where its numbers come from.

Faults these laws must catch: scales left out of the bill; a layer rounded in place; picks of an
activation that all lie in one column; a range without zero; a gram of the wrong group.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from allot import part
from allot.errors import PlanError
from allot.num.formats import Int, UInt
from allot.num.gram import rows_moment
from allot.num.rounding import Nearest
from allot.option import Option, Statistic, Stats
from allot.options.precision import Activation, Values, Weight, space
from allot.options.standins import QuantizedInput, QuantizedLayer, QuantizedOutput
from allot.options.statistics import gram_of
from allot.options.width import Keep
from allot.runtimes.ideal import Ideal
from allot.site import Graph, Site
from allot.testing import OptionLaws
from tests import small, toys


def placed(site: str, make: object = toys.chain) -> tuple[nn.Module, Graph, Site, Stats]:
    k = small.kit(make)  # type: ignore[arg-type]
    return k.task.model, k.graph, k.graph.site(site), k.bank.stats


class TestWeight(OptionLaws):
    bits = 3
    site = "conv2.weight"

    def option(self) -> Option:
        return Weight(bits=self.bits)

    def original(self) -> Option:
        return Weight(bits=32)

    def place(self) -> tuple[nn.Module, Graph, Site, Stats]:
        return placed(self.site)


class TestWeightOfALinear(TestWeight):
    bits = 8
    site = "head.weight"


class TestWeightOfADepthwiseConvolution(TestWeight):
    site = "depth.weight"

    def place(self) -> tuple[nn.Module, Graph, Site, Stats]:
        return placed(self.site, toys.separable)


class TestActivation(OptionLaws):
    def option(self) -> Option:
        return Activation(bits=8)

    def original(self) -> Option:
        return Activation(bits=32)

    def place(self) -> tuple[nn.Module, Graph, Site, Stats]:
        return placed("conv2.input")


class TestKeep(OptionLaws):
    def option(self) -> Option:
        return Keep(ratio=0.5)

    def original(self) -> Option:
        return Keep(ratio=1.0)

    def place(self) -> tuple[nn.Module, Graph, Site, Stats]:
        return placed("conv1.channels")


@pytest.mark.parametrize("bits", range(2, 9))
def test_a_weight_is_billed_its_bits_and_one_float_a_row(bits: int) -> None:
    effect = Weight(bits=bits).effect(placed("conv1.weight")[2])
    assert (bits, bits, 4, -1) == (
        effect.stored_bits,
        effect.compute_bits,
        effect.row_bytes,
        effect.keep,
    )


@pytest.mark.parametrize("bits", (4, 6, 8))
def test_an_activation_is_billed_its_bits_and_nothing_stored_a_row(bits: int) -> None:
    effect = Activation(bits=bits).effect(placed("conv1.input")[2])
    assert (bits, 0, -1) == (effect.compute_bits, effect.row_bytes, effect.keep)


def test_labels_are_what_people_type() -> None:
    assert ["W4", "A8", "float", "float"] == [
        o.label for o in (Weight(bits=4), Activation(bits=8), Weight(bits=32), Activation(bits=32))
    ]


@pytest.mark.parametrize("make", toys.PLAIN)
def test_every_weight_and_tensor_of_the_network_has_a_choice_that_begins_with_float(
    make: object,
) -> None:
    k = small.kit(make)  # type: ignore[arg-type]
    found = space(k.graph, Ideal())
    kinds = ("weight", "activation")
    sites = [s.name for s in k.graph.sites if s.kind in kinds and not s.fixed]
    assert sites == [c.site for c in found.choices] and sites
    for c in found.choices:
        assert c.options[0].is_original and not any(o.is_original for o in c.options[1:])
        assert len({o.label for o in c.options}) == len(c.options)


@pytest.mark.parametrize("bits", range(2, 9))
@pytest.mark.parametrize("site", ("conv1.weight", "head.weight"))
def test_a_layer_has_at_most_two_to_the_b_weights_a_row(bits: int, site: str) -> None:
    model, graph, where, stats = placed(site)
    touch = where.touches[0]
    layer = model.get_submodule(touch.module)
    new = Weight(bits=bits).apply(layer, touch=touch, site=where, graph=graph, stats=stats)
    assert isinstance(new, QuantizedLayer)
    rows = new.inner.weight.detach().flatten(1)
    assert max(len(r.unique()) for r in rows) <= 2**bits
    codes = new.codes()
    assert Int(bits=bits).lo <= codes.min() and codes.max() <= Int(bits=bits).hi


def test_more_bits_lose_less_of_the_layers_output() -> None:
    model, graph, site, stats = placed("conv2.weight")
    touch, layer = site.touches[0], model.get_submodule("conv2")
    x = torch.randn(20, 8, 6, 6, generator=torch.Generator().manual_seed(0))
    errors = []
    for bits in range(2, 9):
        new = Weight(bits=bits).apply(layer, touch=touch, site=site, graph=graph, stats=stats)
        errors.append(float((new(x) - layer(x)).square().mean()))
    assert errors == sorted(errors, reverse=True) and errors[-1] < 1e-3 * errors[0]


def test_a_weight_without_statistics_is_rounded_to_nearest() -> None:
    model, graph, site, _ = placed("conv2.weight")
    touch, layer = site.touches[0], model.get_submodule("conv2")
    both = [
        Weight(bits=3, rounding=r).apply(layer, touch=touch, site=site, graph=graph, stats={})
        for r in (Weight(bits=3).rounding, Nearest())
    ]
    assert torch.equal(both[0].inner.weight, both[1].inner.weight)  # type: ignore[arg-type]


def test_a_depthwise_layer_uses_the_gram_of_each_channel() -> None:
    model, graph, site, stats = placed("depth.weight", toys.separable)
    touch, layer = site.touches[0], model.get_submodule("depth")
    gram = gram_of(graph.layer("depth"))
    option = Weight(bits=3)
    whole = option.apply(layer, touch=touch, site=site, graph=graph, stats=stats)
    for c in range(8):
        one = nn.Conv2d(1, 1, 3, padding=1, bias=False)
        one.weight = nn.Parameter(layer.weight.detach()[c : c + 1])  # type: ignore[index]
        alone = option.encoded(one, gram=stats[gram][c : c + 1])
        assert torch.equal(alone.inner.weight[0], whole.inner.weight[c])  # type: ignore


def test_the_rounding_of_a_weight_is_part_of_the_option() -> None:
    assert Weight(bits=4) != Weight(bits=4, rounding=Nearest())
    data = Weight(bits=4, rounding=Nearest()).dump()
    assert part.load(data).rounding == Nearest()
    data["rounding"]["is"] = "os:system"
    with pytest.raises(PlanError):
        part.load(data)


def test_a_format_of_a_module_without_weights_is_refused() -> None:
    with pytest.raises(TypeError, match="convolution or linear"):
        Weight(bits=4).encoded(nn.ReLU(), gram=None)


@pytest.mark.parametrize("shape", ((16, 32, 32), (32, 16, 16), (3, 8, 8), (700,), (40, 24)))
def test_values_are_picked_from_every_column_alike(shape: tuple[int, ...]) -> None:
    numbered = torch.arange(float(torch.tensor(shape).prod())).view(1, *shape).expand(9, *shape)
    picks = Values(module="m", role="in").update(None, numbered)[:, 2:].long().flatten()
    assert len(picks) == 9 * min(512, numbered[0].numel())
    counts = torch.bincount(picks % shape[-1], minlength=shape[-1]).float()
    mean = float(counts.mean())
    assert float((counts - mean).abs().max()) <= 5 * mean**0.5, counts


def test_values_do_not_depend_on_how_the_data_were_cut() -> None:
    x = torch.randn(12, 5, 7, 7, generator=torch.Generator().manual_seed(0))
    s = Values(module="m", role="in", picks=50)
    whole = s.update(None, x)
    parts: Tensor | None = None
    for p in x.split(5):
        parts = s.update(parts, p)
    assert parts is not None and torch.equal(whole, parts)
    assert torch.equal(whole[:, 0], x.flatten(1).amin(1))
    assert torch.equal(whole[:, 1], x.flatten(1).amax(1))


@pytest.mark.parametrize("role", ("in", "out"))
def test_an_activation_stands_where_its_site_says(role: str) -> None:
    _, graph, site, stats = placed("conv1.input" if role == "in" else "conv2.input")
    touch = site.touches[0]
    assert touch.role == role
    inner = nn.Identity()
    new = Activation(bits=8).apply(inner, touch=touch, site=site, graph=graph, stats=stats)
    assert isinstance(new, QuantizedInput if role == "in" else QuantizedOutput)
    assert new.inner is inner


@pytest.mark.parametrize("bits", (4, 6, 8))
def test_the_range_of_an_activation_holds_zero_and_most_of_the_data(bits: int) -> None:
    k = small.kit()
    for name in ("conv1.input", "conv2.input", "head.input"):
        site = k.graph.site(name)
        touch = site.touches[0]
        new = Activation(bits=bits).apply(
            nn.Identity(), touch=touch, site=site, graph=k.graph, stats=k.bank.stats
        )
        assert isinstance(new, QuantizedInput | QuantizedOutput)
        low, high = -new.zero_point * new.scale, (UInt(bits=bits).hi - new.zero_point) * new.scale
        assert low <= 0 <= high and float(new.quantize(torch.zeros(3)).abs().max()) == 0
        rows = k.bank.stats[Values(module=touch.module, role=touch.role)]
        seen = rows[:, 2:]
        assert float(((seen >= low - new.scale) & (seen <= high + new.scale)).float().mean()) > 0.9


def test_a_layers_gram_is_that_of_its_inputs_alone() -> None:
    g = torch.Generator().manual_seed(0)
    linear, x = nn.Linear(6, 4), torch.randn(30, 6, generator=g)
    new = Weight(bits=2).encoded(linear, gram=rows_moment(x))
    again = Weight(bits=2).encoded(copy.deepcopy(linear), gram=5 * rows_moment(x))
    assert torch.equal(new.inner.weight, again.inner.weight)


def test_what_is_needed_is_what_enters_the_module() -> None:
    _, graph, site, _ = placed("conv2.weight")
    needs: tuple[Statistic, ...] = Weight(bits=4).needs(site, graph)
    assert [("conv2", "in")] == [(s.module, s.role) for s in needs]
    assert (8 * 9,) * 2 == tuple(placed("conv2.weight")[3][needs[0]].shape[1:])
