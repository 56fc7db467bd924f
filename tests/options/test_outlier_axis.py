"""Laws of ranges along the outliers' axis.

Faults these laws must catch: the other axis; an outlier that spoils its neighbours; ranges along
the wrong dim; a range of one batch; NaN that becomes a range.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from allot.calibrate import calibrate
from allot.errors import DataError, InputError, PlanError
from allot.num.affine import covering, rounded
from allot.num.formats import Int, UInt
from allot.option import Option, Stats
from allot.options.outlier_axis import AxisExtremes, OutlierAxis, along_places, axes
from allot.options.quantizers import (
    FormattedInput,
    FormattedOutput,
    PlaceQuantizer,
    Quantizer,
    StaticQuantizer,
)
from allot.site import Graph, Site
from allot.testing import OptionLaws
from allot.trace import trace
from tests import attention, small, toys
from tests.options.test_tensors import SITES, edge, placed, seen_at

A4 = UInt(bits=4)


class TestAtAnOutput(OptionLaws):
    site = "conv2.input"

    def option(self) -> Option:
        return OutlierAxis(grid=A4, groups=4)

    def original(self) -> Option:
        return OutlierAxis(grid=None)

    def place(self) -> tuple[nn.Module, Graph, Site, Stats]:
        return placed(self.option(), self.site)


class TestAtAnInput(TestAtAnOutput):
    site = "head.input"


class Planted(nn.Module):
    """Tokens [n, 17, 8] or images [n, 8, 5, 5] whose channel or place 3 is 30 times as large."""

    def __init__(self, *, along: str, image: bool) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4) if image else nn.Conv2d(3, 8, 2, stride=2)
        size = (8, 1, 1) if image else (1, 8)
        if along == "places":
            size = (1, 5, 5) if image else (16, 1)
        gain = torch.ones(size)
        gain.view(-1)[3] = 30
        self.gain, self.image = gain, image
        self.relu = nn.Hardtanh(-1e9, 1e9)
        self.read: nn.Module = nn.Conv2d(8, 4, 3) if image else nn.Linear(8, 4)
        self.head = nn.Linear(4, 5)

    def seen(self, x: Tensor) -> Tensor:
        """What `read` reads."""
        x = self.stem(x)
        x = x if self.image else x.flatten(2).transpose(1, 2)
        return self.relu(x * self.gain)

    def forward(self, x: Tensor) -> Tensor:
        x = self.read(self.seen(x))
        return self.head(x.mean((2, 3)) if self.image else x.mean(1))


def at_read(along: str, image: bool, *, groups: int) -> tuple[Quantizer, Tensor]:
    """The quantizer where the planted tensor is read, and that tensor."""
    t = small.task(lambda: toys.seeded(Planted(along=along, image=image)))
    option, graph = OutlierAxis(grid=A4, groups=groups), trace(t.model, t.forward, t.example())
    site = graph.site("read.input")
    (touch,) = site.touches
    stats = calibrate(t, t.model, option.needs(site, graph), batch=10)
    module = t.model.get_submodule(touch.module)
    new = option.apply(module, touch=touch, site=site, graph=graph, stats=stats)
    assert isinstance(new, FormattedInput | FormattedOutput) and isinstance(t.model, Planted)
    assert isinstance(t.calibrate.inputs, Tensor)
    with torch.no_grad():
        return new.quantizer, t.model.seen(t.calibrate.inputs)


def units(x: Tensor, along: str) -> Tensor:
    """[channels, ...] or [places, ...] of tokens or an image."""
    flat = x.flatten(2) if x.dim() == 4 else x.transpose(1, 2)
    return flat.transpose(0, 1 if along == "channels" else 2)


@pytest.mark.parametrize("image", (False, True))
@pytest.mark.parametrize("along", ("channels", "places"))
def test_planted_outliers_are_found_and_stand_alone(along: str, image: bool) -> None:
    quantizer, x = at_read(along, image, groups=3)
    assert type(quantizer) is (PlaceQuantizer if along == "places" else StaticQuantizer)
    scale = quantizer.get_buffer("scale")
    assert len(scale) == {"channels": 8, "places": 25 if image else 16}[along]
    assert int((scale == scale[3]).sum()) == 1 and scale.argmax() == 3
    assert len(scale.unique()) == 3
    others = [i for i in range(len(scale)) if i != 3]
    whole = rounded(x, *covering(x.min()[None], x.max()[None], A4), A4)
    mine, plain = (units(q - x, along)[others].square().sum() for q in (quantizer(x), whole))
    assert float(mine) < 0.05 * float(plain)


@pytest.mark.parametrize("image", (False, True))
@pytest.mark.parametrize("along", ("channels", "places"))
def test_as_many_groups_as_units_are_a_range_each(along: str, image: bool) -> None:
    quantizer, x = at_read(along, image, groups=25)
    for mine, unit in zip(units(quantizer(x), along), units(x, along), strict=True):
        want = rounded(unit, *covering(unit.min()[None], unit.max()[None], A4), A4)
        assert torch.allclose(mine, want, atol=1e-5)


def test_one_group_is_one_range_for_the_tensor() -> None:
    x = seen_at("conv2.input")
    got = edge(OutlierAxis(grid=A4, groups=1), "conv2.input").quantize(x)  # type: ignore[operator]
    assert torch.equal(got, rounded(x, *covering(x.min()[None], x.max()[None], A4), A4))


@pytest.mark.parametrize("grid", (A4, Int(bits=4)))
@pytest.mark.parametrize(("site", "make"), (*SITES, ("layers.0.up.input", attention.vision)))
def test_it_takes_every_kind_of_site(
    site: str, make: Callable[[], nn.Module], grid: UInt | Int
) -> None:
    x = seen_at(site, make)
    new = edge(OutlierAxis(grid=grid), site, make)
    got = new.quantize(x)  # type: ignore[operator]
    assert got.shape == x.shape
    assert float((got - x).square().mean()) < 0.05 * float(x.square().mean())


def test_extremes_do_not_depend_on_how_the_data_were_cut() -> None:
    x = torch.randn(12, 5, 3, 4, generator=torch.Generator().manual_seed(0))
    for dim, sizes in ((1, (5, 12)), (-1, (4, 15))):
        whole = AxisExtremes(module="m", role="in", dim=dim).update(None, x)
        parts = None
        for part in x.split([1, 7, 4]):
            parts = AxisExtremes(module="m", role="in", dim=dim).update(parts, part)
        assert parts is not None and torch.equal(whole, parts)
        channels, places = axes(whole, sizes[0])
        assert (channels.shape[1], places.shape[1]) == sizes
        assert torch.equal(channels[1], x.movedim(dim, -1).amax((0, 1, 2)))
        assert channels[0].min() == places[0].min() == x.min()


def test_of_a_sample_that_is_one_place_the_axis_is_the_channels() -> None:
    x = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    state = AxisExtremes(module="m", role="in", dim=-1).update(None, x)
    assert not along_places(*axes(state, 4))


def test_bad_input_is_refused() -> None:
    with pytest.raises(InputError, match="at least one group"):
        OutlierAxis(grid=A4, groups=0)
    statistic = AxisExtremes(module="m", role="in", dim=-1)
    state = statistic.update(None, torch.zeros(2, 3, 4))
    with pytest.raises(DataError, match="5 places in some samples"):
        statistic.update(state, torch.zeros(2, 5, 4))
    option = OutlierAxis(grid=A4)
    model, graph, site, stats = placed(option)
    bad = {s: torch.full_like(x, torch.nan) for s, x in stats.items()}
    touch = site.touches[0]
    with pytest.raises(DataError, match="NaN or infinity"):
        option.apply(
            model.get_submodule(touch.module), touch=touch, site=site, graph=graph, stats=bad
        )
    quantizer = PlaceQuantizer(grid=A4, scale=torch.ones(5), zero=torch.zeros(5), dim=-1)
    with pytest.raises(PlanError, match="4 places meets ranges for 5"):
        quantizer(torch.zeros(2, 4, 3))
