"""Laws of weights on any format: the bank's encoding, the account, the file."""

from __future__ import annotations

import itertools
import json

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from allot import packed
from allot.bank import Bank
from allot.bill import size
from allot.calibrate import calibrate, needed
from allot.deploy import deploy
from allot.errors import InputError
from allot.num.clipping import MinMax, PNorm
from allot.num.formats import Float16, Format, Int, UInt
from allot.num.minifloat import Minifloat
from allot.num.rounding import Nearest
from allot.num.scale_formats import mx, nvfp4
from allot.onnx_graph import load_proto, to_onnx
from allot.option import Option, Stats
from allot.options.format_layer import FormatLayer
from allot.options.formatted import Formatted
from allot.options.precision import Weight
from allot.options.statistics import gram_of
from allot.site import Graph, Site
from allot.space import Choice, Space
from allot.testing import OptionLaws
from allot.trace import trace
from tests import small

INT4 = Formatted(name="W4", format=Format(grid=Int(bits=4)))
GROUPS = Formatted(name="W3g9", format=Format(grid=Int(bits=3), group=9, scales=Float16()))
ZEROS = Formatted(
    name="W4az", format=Format(grid=UInt(bits=4), group=9, asymmetric=True), ranges=MinMax()
)
RANKED = Formatted(name="W2r2", format=Format(grid=Int(bits=2)), rank=2)
WHOLE = Formatted(name="FP4", format=Format(grid=Minifloat(exponent=2, mantissa=1), group=-1))
EVERY = (INT4, GROUPS, ZEROS, RANKED, WHOLE)


def placed(option: Formatted, site: str) -> tuple[nn.Module, Graph, Site, Stats]:
    t = small.task()
    graph = trace(t.model, t.forward, t.example())
    statistics = option.needs(graph.site(site), graph)
    return t.model, graph, graph.site(site), calibrate(t, t.model, statistics)


@pytest.mark.parametrize("option", EVERY, ids=lambda o: o.label)
class TestFormatted:
    def test_its_values_are_those_of_its_codes(self, option: Formatted) -> None:
        new, layer = encoded(option, "conv2.weight")
        rows = new.encoded().values()
        if new.up is not None and new.down is not None:
            rows = rows + new.up @ new.down
        assert torch.allclose(rows.view_as(layer.weight), new.weight, atol=1e-6)
        assert torch.allclose(new.inner.weight, new.weight, atol=1e-6)

    def test_a_correction_is_one_of_the_output(self, option: Formatted) -> None:
        new, layer = encoded(option, "conv2.weight")
        gain = torch.linspace(-1.5, 2, layer.weight.shape[0])
        shift = torch.linspace(1, -1, layer.weight.shape[0])
        x = torch.randn(3, layer.weight.shape[1], 6, 6, generator=torch.Generator().manual_seed(0))
        view = (1, -1, 1, 1)
        wanted = new(x) * gain.view(view) + shift.view(view)
        assert torch.allclose(new.affine(gain, shift)(x), wanted, atol=1e-4)

    def test_gradients_go_straight_through(self, option: Formatted) -> None:
        new, _ = encoded(option, "conv2.weight")
        new.inner.weight.requires_grad_(True)
        new.weight.sum().backward()
        grad = new.inner.weight.grad
        assert grad is not None and bool(grad.isfinite().all()) and float(grad.abs().max()) > 0

    def test_the_file_takes_what_the_account_says_and_holds_the_weight(
        self, option: Formatted
    ) -> None:
        t = small.task()
        graph = trace(t.model, t.forward, t.example())
        sites = [s.name for s in graph.sites if s.kind == "weight" and option_fits(option, s)]
        choices = [Choice(site=s, options=(Weight(bits=32), option)) for s in sites]
        space = Space(graph=graph, choices=tuple(choices))
        bank = Bank(t.model, graph=graph, stats=calibrate(t, t.model, needed(space)))
        planned = bank.copy(bank.standins(dict.fromkeys(sites, option)))
        deployed = deploy(planned, graph)
        x = t.example()
        assert torch.allclose(planned.eval()(x), deployed(x), atol=2e-3)
        file = packed.pack(to_onnx(deployed, x), deployed, graph)
        account = size(space, header=packed.header_bytes(graph)).of((1,) * len(choices))
        assert len(file.weights) == account
        assert json.loads(file.layout)["version"] == packed.VERSION
        whole = {t.name: t for t in load_proto(packed.unpack(file)).graph.initializer}
        for name, layer in packed.named_layers(deployed).items():
            got = np.frombuffer(whole[f"{name}.weight"].raw_data, np.float32)
            np.testing.assert_array_equal(got.reshape(layer.weight.shape), layer.weight.numpy())


def option_fits(option: Formatted, site: Site) -> bool:
    assert option.format is not None
    k = int(np.prod(site.shape[1:]))
    return option.format.group <= 0 or k % option.format.group == 0


def encoded(option: Formatted, site: str) -> tuple[FormatLayer, nn.Conv2d]:
    model, graph, place, stats = placed(option, site)
    layer = model.get_submodule(place.touches[0].module)
    new = option.apply(layer, touch=place.touches[0], site=place, graph=graph, stats=stats)
    assert isinstance(new, FormatLayer) and isinstance(layer, nn.Conv2d)
    return new, layer


class TestLaws(OptionLaws):
    def option(self) -> Option:
        return GROUPS

    def original(self) -> Option:
        return Formatted()

    def place(self) -> tuple[nn.Module, Graph, Site, Stats]:
        return placed(GROUPS, "conv2.weight")


class TestLawsOfLowRank(TestLaws):
    def option(self) -> Option:
        return RANKED

    def place(self) -> tuple[nn.Module, Graph, Site, Stats]:
        return placed(RANKED, "head.weight")


@pytest.mark.parametrize("rounding", (Nearest(), INT4.rounding))
def test_integers_a_row_are_the_plain_weight_option(rounding: object) -> None:
    model, graph, _site, stats = placed(INT4, "conv2.weight")
    layer = model.get_submodule("conv2")
    gram = stats[gram_of(graph.layer("conv2"))]
    plain = Weight(bits=4, rounding=rounding).encoded(layer, gram=gram)  # type: ignore[arg-type]
    other = Formatted(name="W4", format=INT4.format, ranges=PNorm(), rounding=rounding)  # type: ignore[arg-type]
    assert error(other.encoded(layer, gram=gram), layer, gram) <= 1.01 * error(plain, layer, gram)


def error(new: nn.Module, layer: nn.Module, gram: Tensor) -> float:
    assert isinstance(new.weight, Tensor) and isinstance(layer.weight, Tensor)
    e = (new.weight - layer.weight).detach().flatten(1).double()
    return float(torch.einsum("ok,kl,ol->", e, gram[0], e))


def test_error_falls_with_rank() -> None:
    model, graph, _, stats = placed(RANKED, "conv2.weight")
    layer, gram = model.get_submodule("conv2"), stats[gram_of(graph.layer("conv2"))]
    found = []
    for rank in range(5):
        option = Formatted(name="x", format=RANKED.format, rank=rank)
        found.append(error(option.encoded(layer, gram=gram), layer, gram))
    assert all(a > b for a, b in itertools.pairwise(found))


def test_a_rank_above_the_matrix_and_a_group_that_does_not_divide_are_refused() -> None:
    _model, graph, site, _ = placed(INT4, "conv2.weight")
    rows, k = site.shape[0], int(np.prod(site.shape[1:]))
    with pytest.raises(InputError, match=f"{rows} x {k}.*rank of 99"):
        Formatted(name="x", format=INT4.format, rank=99).needs(site, graph)
    with pytest.raises(InputError, match=r"groups of 7 do not divide .*would"):
        Formatted(name="x", format=Format(grid=Int(bits=4), group=7)).needs(site, graph)


@pytest.mark.parametrize("fmt", (mx(Minifloat(exponent=2, mantissa=1)), nvfp4()))
def test_block_formats_stand_in_a_linear(fmt: Format) -> None:
    layer = nn.Linear(64, 8)
    new = Formatted(name="x", format=fmt).encoded(layer, gram=None)
    assert float((new.weight - layer.weight).detach().norm() / layer.weight.detach().norm()) < 0.2
