"""Laws of formats of the tensors between layers.

Faults these laws must catch: statistics of another module; a range along the wrong dim; parts
that are cut at the wrong channel; groups that do not divide and are padded in silence; NaN in
the calibration data that becomes a range.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from allot.bank import Bank
from allot.calibrate import calibrate
from allot.errors import DataError, InputError, PlanError
from allot.measure import Meter
from allot.memo import Memo
from allot.num.activation_ranges import ActivationRange, KlHistogram, MinMax, Percentile, Shrink
from allot.num.affine import covering, rounded
from allot.num.formats import Grid, Int, UInt
from allot.num.live_ranges import AtRunTime
from allot.num.minifloat import Minifloat
from allot.num.powers import Log2
from allot.num.scale_formats import PowerOfTwo
from allot.num.token_wise import TokenWise
from allot.option import Option, Stats
from allot.options.narrow import positions
from allot.options.precision import Activation, Weight
from allot.options.quantizers import FormattedInput, StaticQuantizer
from allot.options.sharing import PerChannel, PerGroup, PerPart, PerTensor, PerToken, Sharing
from allot.options.standins import QuantizedInput, QuantizedOutput
from allot.options.tensors import ActivationFormat, channel_dim
from allot.options.width import Keep
from allot.recover import Recovery
from allot.site import Graph, Site
from allot.task import Task
from allot.testing import OptionLaws, _survives_a_file
from allot.trace import trace
from tests import attention, small, toys

A8, A4 = UInt(bits=8), UInt(bits=4)
LIVE = AtRunTime()
FORMATS: tuple[ActivationFormat, ...] = (
    ActivationFormat(grid=A8),
    ActivationFormat(grid=Int(bits=4)),
    ActivationFormat(grid=Log2(bits=4, signed=False), ranges=MinMax()),
    ActivationFormat(grid=A4, ranges=Percentile(percent=99)),
    ActivationFormat(grid=A4, ranges=KlHistogram()),
    ActivationFormat(grid=A4, ranges=TokenWise()),
    ActivationFormat(grid=A8, ranges=Shrink(power=1)),
    ActivationFormat(grid=A4, sharing=PerChannel()),
    ActivationFormat(grid=A4, sharing=PerChannel(), ranges=MinMax()),
    ActivationFormat(grid=Int(bits=8), sharing=PerPart(starts=(3,))),
    ActivationFormat(grid=A8, ranges=LIVE),
    ActivationFormat(grid=A8, sharing=PerToken(), ranges=LIVE),
    ActivationFormat(grid=A4, sharing=PerToken(), ranges=AtRunTime(clip=0.9)),
    ActivationFormat(grid=A4, sharing=PerGroup(size=4), ranges=LIVE),
    ActivationFormat(grid=A4, sharing=PerGroup(size=2), ranges=LIVE),
    ActivationFormat(
        grid=Minifloat(exponent=2, mantissa=1),
        sharing=PerGroup(size=4),
        ranges=AtRunTime(scales=PowerOfTwo()),
    ),
)
LABELS = (
    "A8", "A4sym", "Log2A4minmax", "A4p99", "A4kl", "A4tokenwise", "A8l1", "A4channel",
    "A4channelminmax", "A8symparts3", "A8live", "A8token", "A4tokenc0.9", "A4g4", "A4g2",
    "E2M1g4PowerOfTwo",
)  # fmt: skip
# an input of a layer, an output of another module, tokens
SITES = (("conv1.input", toys.chain), ("conv2.input", toys.chain), ("head.input", toys.chain))


@functools.cache
def _graph(make: str) -> Graph:
    t = small.task(getattr(toys, make, None) or attention.vision)
    return trace(t.model, t.forward, t.example())


def graph_of(t: Task) -> Graph:
    """Frozen, and the same for every copy of a toy."""
    return _graph(t.name)


def placed(
    option: Option, site: str = "conv2.input", make: Callable[[], nn.Module] = toys.chain
) -> tuple[nn.Module, Graph, Site, Stats]:
    t = small.task(make)
    graph = graph_of(t)
    where = graph.site(site)
    return t.model, graph, where, calibrate(t, t.model, option.needs(where, graph), batch=10)


def edge(option: Option, site: str, make: Callable[[], nn.Module] = toys.chain) -> nn.Module:
    model, graph, where, stats = placed(option, site, make)
    touch = where.touches[0]
    module = model.get_submodule(touch.module)
    return option.apply(module, touch=touch, site=where, graph=graph, stats=stats)


def seen_at(site: str, make: Callable[[], nn.Module] = toys.chain) -> Tensor:
    """The tensor at a site on all calibration data."""
    t = small.task(make)
    (touch,) = graph_of(t).site(site).touches
    found: list[Tensor] = []

    def before(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        found.append(given[0])

    def after(module: nn.Module, given: tuple[Tensor, ...], out: Tensor) -> None:
        found.append(out)

    module = t.model.get_submodule(touch.module)
    if touch.role == "in":
        module.register_forward_pre_hook(before)
    else:
        module.register_forward_hook(after)
    small.forward(t, t.model, t.calibrate, batch=24)
    return found[0].detach()


class TestFixedAtAnOutput(OptionLaws):
    grid: Grid = Int(bits=4)
    sharing: Sharing = PerTensor()
    ranges: ActivationRange | AtRunTime = Shrink()
    site = "conv2.input"

    def option(self) -> Option:
        return ActivationFormat(grid=self.grid, sharing=self.sharing, ranges=self.ranges)

    def original(self) -> Option:
        return ActivationFormat(grid=None)

    def place(self) -> tuple[nn.Module, Graph, Site, Stats]:
        return placed(self.option(), self.site)


class TestFixedAtAnInput(TestFixedAtAnOutput):
    grid = A8
    sharing = PerChannel()
    site = "conv1.input"


class TestAtRunTimeAtAnInput(TestFixedAtAnOutput):
    grid = A4
    sharing = PerGroup(size=4)
    ranges = LIVE
    site = "head.input"


class TestAtRunTimeAtAnOutput(TestFixedAtAnOutput):
    sharing = PerToken()
    ranges = LIVE


class TestTokenWise(TestFixedAtAnOutput):
    grid = A8
    ranges = TokenWise()


def test_labels_are_what_people_type() -> None:
    assert LABELS == tuple(f.label for f in FORMATS)
    assert ActivationFormat(grid=None).label == "float"


@pytest.mark.parametrize("option", FORMATS, ids=LABELS)
def test_a_format_survives_a_file_and_is_billed_its_width(option: ActivationFormat) -> None:
    assert _survives_a_file(option) and option.grid is not None
    effect = option.effect(placed(ActivationFormat(grid=None))[2])
    assert (effect.stored_bits, effect.compute_bits) == (option.grid.width,) * 2
    assert (effect.row_bytes, effect.keep, effect.gone) == (0, -1, False)


@pytest.mark.parametrize("option", FORMATS, ids=LABELS)
@pytest.mark.parametrize(("site", "make"), SITES)
def test_every_format_takes_every_kind_of_site(
    option: ActivationFormat, site: str, make: Callable[[], nn.Module]
) -> None:
    x = seen_at(site, make)
    if x.shape[1] == 3:
        fits = {PerGroup: PerGroup(size=3), PerPart: PerPart(starts=(1,))}
        option = replace(option, sharing=fits.get(type(option.sharing), option.sharing))
    new = edge(option, site, make)
    assert isinstance(new, QuantizedInput | QuantizedOutput)
    got = new.quantize(x)
    assert got.shape == x.shape and got.isfinite().all()
    assert float((got - x).square().mean()) < float(x.square().mean())


@pytest.mark.parametrize("bits", (4, 8))
@pytest.mark.parametrize("site", ("conv1.input", "conv2.input"))
def test_the_usual_format_is_the_plain_option(bits: int, site: str) -> None:
    plain = edge(Activation(bits=bits), site)
    mine = edge(ActivationFormat(grid=UInt(bits=bits)), site)
    assert type(plain) is type(mine) and plain.zero_point == mine.zero_point
    assert mine.scale == pytest.approx(plain.scale, rel=1e-6)


def test_channels_have_the_ranges_of_their_own_values() -> None:
    x, option = (
        seen_at("conv2.input"),
        ActivationFormat(grid=A4, sharing=PerChannel(), ranges=MinMax()),
    )
    got = edge(option, "conv2.input").quantize(x)
    for c in range(x.shape[1]):
        one = x[:, c]
        want = rounded(one, *covering(one.min()[None], one.max()[None], A4), A4)
        assert torch.equal(want, got[:, c])


def test_parts_have_the_ranges_of_theirs() -> None:
    """As of each part alone, in a network that joins tensors of two sizes."""
    x, grid = seen_at("conv3.input", toys.dense), Int(bits=8)
    option = ActivationFormat(grid=grid, sharing=PerPart(starts=(6,)), ranges=MinMax())
    got = edge(option, "conv3.input", toys.dense).quantize(x)
    for part, mine in zip(x.split([6, 4], 1), got.split([6, 4], 1), strict=True):
        want = rounded(part, *covering(part.min()[None], part.max()[None], grid), grid)
        assert torch.equal(want, mine)


def test_a_finer_share_loses_less_at_the_full_range() -> None:
    x = seen_at("conv3.input", toys.dense)
    sharings = (PerTensor(), PerPart(starts=(6,)), PerChannel())
    errors = []
    for sharing in sharings:
        option = ActivationFormat(grid=A4, sharing=sharing, ranges=MinMax())
        q = edge(option, "conv3.input", toys.dense).quantize(x)
        errors.append(float((q - x).square().mean()))
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("option", FORMATS[3:8], ids=LABELS[3:8])
def test_ranges_do_not_depend_on_how_the_data_were_cut(option: ActivationFormat) -> None:
    t = small.task()
    graph = graph_of(t)
    site = graph.site("conv2.input")
    module = t.model.get_submodule(site.touches[0].module)
    news = []
    for batch in (24, 7, 1):
        stats = calibrate(t, t.model, option.needs(site, graph), batch=batch)
        news.append(
            option.apply(module, touch=site.touches[0], site=site, graph=graph, stats=stats)
        )
    x = seen_at("conv2.input")
    assert all(torch.allclose(news[0].quantize(x), n.quantize(x), atol=1e-5) for n in news)


def test_tokens_of_a_transformer_are_ranged_along_their_last_dim() -> None:
    t = small.task(attention.vision)
    graph = graph_of(t)
    site = graph.site("layers.0.up.input")
    assert channel_dim(site, graph) == -1 and len(site.shape) == 2
    option = ActivationFormat(grid=A8, sharing=PerToken(), ranges=LIVE)
    touch = site.touches[0]
    new = option.apply(
        t.model.get_submodule(touch.module), touch=touch, site=site, graph=graph, stats={}
    )
    x = torch.randn(2, *site.shape, generator=torch.Generator().manual_seed(0))
    want = torch.stack([torch.stack([new.quantize(r[None, None])[0, 0] for r in s]) for s in x])
    assert torch.equal(want, new.quantize(x))


@pytest.mark.parametrize("sharing", (PerChannel(), PerPart(starts=(3,))))
def test_ranges_of_channels_follow_those_that_a_layer_still_has(sharing: Sharing) -> None:
    """Also where its weight stands on a grid."""
    option = ActivationFormat(grid=A8, sharing=sharing)
    t = small.task()
    graph = graph_of(t)
    keep, at = Keep(ratio=0.5), graph.site("conv2.channels")
    needs = (*option.needs(graph.site("head.input"), graph), *keep.needs(at, graph))
    bank = Bank(t.model, graph=graph, stats=calibrate(t, t.model, needs, batch=10))
    whole = bank.standins({"head.input": option})["head"]
    plan = {"head.input": option, "conv2.channels": keep, "head.weight": Weight(bits=8)}
    cut = bank.standins(plan)["head"]
    kept = positions(bank.standins({"conv2.channels": keep})["head"], "in")
    assert isinstance(whole, FormattedInput) and isinstance(cut, FormattedInput)
    assert isinstance(whole.quantizer, StaticQuantizer) and 0 < len(kept) < 24
    assert isinstance(cut.quantizer, StaticQuantizer)
    assert torch.equal(cut.quantizer.scale, whole.quantizer.scale[list(kept)])
    assert torch.equal(cut.quantizer.zero, whole.quantizer.zero[list(kept)])
    assert small.forward(t, bank.copy(bank.standins(plan)), t.search).isfinite().all()


def test_a_tensor_that_lost_channels_elsewhere_is_refused() -> None:
    option = ActivationFormat(grid=A8, sharing=PerChannel())
    t = small.task()
    graph = graph_of(t)
    site = graph.site("conv2.input")
    keep = Keep(ratio=0.5)
    needs = (*option.needs(site, graph), *keep.needs(graph.site("conv1.channels"), graph))
    bank = Bank(t.model, graph=graph, stats=calibrate(t, t.model, needs, batch=10))
    model = bank.copy(bank.standins({"conv2.input": option, "conv1.channels": keep}))
    assert site.touches[0].module == "relu1"
    with pytest.raises(PlanError, match="one range for the whole tensor would do"):
        small.forward(t, model, t.search)


@pytest.mark.parametrize(("size", "offer"), ((3, "2 or 4"), (5, "4 or 8"), (16, "8 would")))
def test_groups_that_do_not_divide_are_refused_with_those_that_would(size: int, offer: str) -> None:
    option = ActivationFormat(grid=A4, sharing=PerGroup(size=size), ranges=LIVE)
    with pytest.raises(InputError, match=f"groups of {size} do not divide the 8.*{offer}"):
        placed(option)


def test_parts_beyond_the_channels_are_refused() -> None:
    for starts in ((8,), (3, 20)):
        with pytest.raises(InputError, match=r"do not lie within the 8 channels at conv2\.input"):
            placed(ActivationFormat(grid=A4, sharing=PerPart(starts=starts)))
    for starts in ((), (0, 3), (4, 2), (3, 3)):
        with pytest.raises(InputError, match="ascending"):
            PerPart(starts=starts)


@pytest.mark.parametrize(
    ("sharing", "ranges"),
    (
        (PerToken(), MinMax()),
        (PerGroup(size=4), Shrink()),
        (PerChannel(), LIVE),
        (PerPart(starts=(2,)), LIVE),
        (PerChannel(), KlHistogram()),
        (PerPart(starts=(2,)), TokenWise()),
    ),
)
def test_shares_and_rules_that_do_not_go_together_are_refused(
    sharing: Sharing, ranges: ActivationRange | AtRunTime
) -> None:
    with pytest.raises(InputError):
        ActivationFormat(grid=A8, sharing=sharing, ranges=ranges)
    with pytest.raises(InputError, match="at least one channel"):
        PerGroup(size=0)


@pytest.mark.parametrize("option", FORMATS[:10], ids=LABELS[:10])
def test_calibration_data_that_are_no_numbers_are_refused_with_the_module(
    option: ActivationFormat,
) -> None:
    t = small.task()
    graph = graph_of(t)
    site = graph.site("conv2.input")
    assert isinstance(t.calibrate.inputs, Tensor)
    t.calibrate.inputs[3, 0, 0, 0] = float("nan")
    module = t.model.get_submodule("relu1")
    with pytest.raises(DataError, match="the output of relu1 holds NaN or infinity"):
        stats = calibrate(t, t.model, option.needs(site, graph), batch=10)
        option.apply(module, touch=site.touches[0], site=site, graph=graph, stats=stats)


@pytest.mark.parametrize("option", FORMATS, ids=LABELS)
def test_one_sample_is_enough_and_a_constant_tensor_is_no_harm(option: ActivationFormat) -> None:
    t = small.task()
    one = replace(t, calibrate=t.calibrate.subset(slice(0, 1)))
    graph = graph_of(t)
    site = graph.site("conv2.input")
    touch, module = site.touches[0], t.model.get_submodule("relu1")
    needs = option.needs(site, graph)
    new = option.apply(
        module, touch=touch, site=site, graph=graph, stats=calibrate(one, t.model, needs)
    )
    assert new.quantize(seen_at("conv2.input")).isfinite().all()
    x = torch.full((3, 8, 8, 8), 0.7)
    states = {s: s.update(None, x) for s in needs}
    new = option.apply(module, touch=touch, site=site, graph=graph, stats=states)
    clip = option.ranges.clip if isinstance(option.ranges, AtRunTime) else 1.0
    power = 0.25 if option.label.endswith("PowerOfTwo") else 0.0
    worst = (0.5 / 7 + 1 - clip + power) * 0.7  # half a step of the coarsest grid
    assert float((new.quantize(x) - x).abs().max()) <= worst + 1e-6


def test_a_plan_of_formats_is_measured_alike_in_any_batches() -> None:
    """By the meter, which replays what comes before the first change, and by hand."""
    t = small.task()
    graph = graph_of(t)
    sites = [s for s in graph.sites if s.kind == "activation"]
    options: dict[str, Option] = {
        s.name: ActivationFormat(grid=A4, sharing=PerToken(), ranges=LIVE) for s in sites
    }
    options["conv2.input"] = ActivationFormat(grid=A4, sharing=PerChannel())
    needs = [n for s in sites for n in options[s.name].needs(s, graph)]
    bank = Bank(t.model, graph=graph, stats=calibrate(t, t.model, needs, batch=10))
    plain = Recovery(matched=False)
    losses = [
        Meter(t, bank, t.search, memo=Memo(), batch=b).loss(options, recovery=plain).divergences
        for b in (20, 7, 1)
    ]
    model = bank.copy(bank.standins(options))
    original = small.forward(t, t.model, t.search, batch=20)
    by_hand = t.divergence(original, small.forward(t, model, t.search, batch=20))
    for found in losses:
        assert torch.allclose(torch.tensor(found), by_hand.float(), rtol=1e-3, atol=1e-6)
