"""Laws of quantizers and of the wrappers that hold them.

Faults these laws must catch: tokens, groups or samples that see each other; a channel's range
used along the wrong dim; gradients outside the range; a step that stays set.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from allot.deploy import deploy
from allot.errors import ModelError, PlanError
from allot.module_tree import built, told
from allot.num.affine import covering, rounded
from allot.num.formats import Grid, Int, UInt
from allot.num.live_ranges import AtRunTime
from allot.num.minifloat import Minifloat
from allot.options.quantizers import (
    FormattedInput,
    FormattedOutput,
    LiveQuantizer,
    Quantizer,
    StaticQuantizer,
    SteppedQuantizer,
    at_edge,
)
from allot.options.standins import QuantizedInput, QuantizedOutput
from allot.sampling.moment import Level, Moment, Request
from allot.sampling.moment import told as during
from allot.sweep import rewrapped, unwrapped
from allot.trace import trace
from tests import toys

GRIDS: tuple[Grid, ...] = (UInt(bits=4), Int(bits=4), Minifloat(exponent=2, mantissa=1))
TOKENS, IMAGES = (6, 5, 8), (6, 8, 3, 3)


def drawn(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)) + 0.3


def live(grid: Grid, dim: int, group: int, clip: float = 1.0) -> LiveQuantizer:
    return LiveQuantizer(grid=grid, ranges=AtRunTime(clip=clip), dim=dim, group=group)


def static(grid: Grid, x: Tensor, dim: int) -> StaticQuantizer:
    rows = x.movedim(dim, 0).flatten(1)
    scale, zero = covering(rows.amin(1), rows.amax(1), grid)
    return StaticQuantizer(grid=grid, scale=scale, zero=zero, dim=dim)


LIVE = tuple((dim, group) for dim in (1, -1) for group in (-1, 0, 4))


def of(dim: int) -> Tensor:
    return drawn(IMAGES if dim == 1 else TOKENS)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("dim", (1, -1))
def test_fixed_ranges_twice_are_fixed_ranges_once(grid: Grid, dim: int) -> None:
    x = of(dim)
    q = static(grid, x, dim)
    assert torch.equal(q(2 * x), q(q(2 * x)))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("dim", (1, -1))
def test_channels_in_another_order_with_their_ranges_give_the_same(grid: Grid, dim: int) -> None:
    x, order = of(dim), torch.tensor([3, 1, 7, 0, 2, 6, 5, 4])
    turned = x.index_select(dim, order)
    want = static(grid, x, dim)(x).index_select(dim, order)
    assert torch.equal(want, static(grid, turned, dim)(turned))


@pytest.mark.parametrize("bits", (2, 4, 8))
def test_one_range_of_unsigned_integers_is_torchs(bits: int) -> None:
    x = drawn(TOKENS) * 4
    grid = UInt(bits=bits)
    q = StaticQuantizer(grid=grid, scale=torch.tensor([0.5]), zero=torch.tensor([2.0]), dim=-1)
    want = torch.fake_quantize_per_tensor_affine(x, 0.5, 2, 0, grid.hi)
    assert torch.equal(want, q(x))
    scales, zeros = torch.full((8,), 0.5), torch.full((8,), 2).int()
    want = torch.fake_quantize_per_channel_affine(drawn(IMAGES), scales, zeros, 1, 0, grid.hi)
    got = StaticQuantizer(grid=grid, scale=scales, zero=zeros, dim=1)(drawn(IMAGES))
    assert torch.equal(want, got)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("dim", "group"), LIVE)
def test_every_unit_is_rounded_as_if_it_were_alone(grid: Grid, dim: int, group: int) -> None:
    x = of(dim)
    q = live(grid, dim, group)(x)
    if dim == 1:
        units = x.flatten(1) if group <= 0 else x.view(6, 2, -1).flatten(0, 1)
    else:
        units = x.flatten(1) if group < 0 else x.reshape(-1, group or 8)
    for unit, got in zip(units, q.reshape(units.shape), strict=True):
        want = rounded(unit, *covering(unit.min()[None], unit.max()[None], grid), grid)
        assert torch.equal(want, got)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize(("dim", "group"), LIVE)
def test_samples_and_batches_do_not_matter_to_each_other(grid: Grid, dim: int, group: int) -> None:
    x, q = of(dim), live(grid, dim, group, clip=0.9)
    assert torch.equal(q(x), torch.cat([q(part) for part in x.split([1, 3, 2])]))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("group", (0, 4))
def test_a_token_of_a_power_of_two_its_size_is_rounded_to_as_much(grid: Grid, group: int) -> None:
    x, q = drawn(TOKENS), live(grid, -1, group, clip=0.8)
    size = 2.0 ** torch.arange(-15, 15).view(6, 5, 1)
    assert torch.equal(q(x) * size, q(x * size))


@pytest.mark.parametrize("grid", (UInt(bits=8), Int(bits=8)))
def test_smaller_units_lose_no_more_and_stay_within_half_a_step(grid: Grid) -> None:
    x = drawn(TOKENS) * torch.logspace(-2, 2, 8)
    errors = [(live(grid, -1, g)(x) - x).square().mean() for g in (-1, 0, 4, 2)]
    assert errors == sorted(errors, reverse=True)
    rows = x.reshape(-1, 4)
    step, _ = covering(rows.amin(1), rows.amax(1), grid)
    off = (live(grid, -1, 4)(x) - x).abs().reshape(rows.shape)
    assert (off <= step[:, None] / 2 * (1 + 1e-5)).all()


@pytest.mark.parametrize("grid", GRIDS)
def test_the_gradient_passes_inside_the_range_only(grid: Grid) -> None:
    least, most = grid.reach
    inside = torch.tensor([0.3 * most, 0.9 * most, least, 0.0])
    x = torch.cat([inside, torch.tensor([most * 1.5, min(least, 0) * 1.5 - 2])]).requires_grad_()
    q = StaticQuantizer(grid=grid, scale=torch.ones(1), zero=torch.zeros(1), dim=-1)
    (q(x) * torch.arange(1.0, 7.0)).sum().backward()
    assert x.grad is not None and x.grad.tolist() == [1, 2, 3, 4, 0, 0]


def test_the_gradient_of_ranges_at_run_time_is_the_identity_unless_clipped() -> None:
    x = drawn(TOKENS).requires_grad_()
    live(UInt(bits=4), -1, 0)(x).sum().backward()
    assert x.grad is not None and (x.grad == 1).all()
    x.grad = None
    live(UInt(bits=4), -1, 0, clip=0.5)(x).sum().backward()
    assert 0 < float(x.grad.mean()) < 1  # type: ignore[union-attr]


def test_half_precision_stays_half_precision() -> None:
    x = drawn(TOKENS).bfloat16()
    for q in (static(UInt(bits=4), x.float(), -1), live(UInt(bits=4), -1, 4)):
        assert q(x).dtype == torch.bfloat16 and q(x).shape == x.shape


def test_a_tensor_in_any_layout_is_rounded_alike() -> None:
    x = drawn(IMAGES)
    for group in (-1, 0, 4):
        q = live(UInt(bits=4), 1, group)
        assert torch.equal(q(x), q(x.contiguous(memory_format=torch.channels_last)))


def test_channels_that_went_are_told_and_not_guessed() -> None:
    q = static(UInt(bits=4), drawn(TOKENS), -1)
    with pytest.raises(PlanError, match="6 channels meets ranges for 8"):
        q(drawn(TOKENS)[:, :, :6])
    with pytest.raises(PlanError, match="groups of 4 meet a tensor of 6"):
        live(UInt(bits=4), -1, 4)(drawn(TOKENS)[:, :, :6])


def quantizers() -> list[Quantizer]:
    x = drawn(TOKENS)
    table = SteppedQuantizer(
        grid=GRIDS[0],
        scale=torch.tensor([0.1, 0.5]),
        zero=torch.tensor([3, 1]),
        times=torch.tensor([900.0, 100.0]),
    )
    return [static(GRIDS[2], x, -1), live(GRIDS[1], -1, 4, clip=0.9), table]


@pytest.mark.parametrize("which", range(3))
def test_a_wrapper_is_the_module_and_the_quantizer(which: int) -> None:
    layer, x, q = nn.Linear(8, 8), drawn(TOKENS), quantizers()[which]
    before, after = at_edge(layer, "in", q), at_edge(layer, "out", q)
    assert isinstance(before, FormattedInput) and isinstance(before, QuantizedInput)
    assert isinstance(after, FormattedOutput) and isinstance(after, QuantizedOutput)
    assert torch.equal(before(x), layer(q(x))) and torch.equal(after(x), q(layer(x)))
    assert torch.equal(before.quantize(x), q(x)) and torch.equal(after.quantize(x), q(x))
    assert before.in_features == 8 and unwrapped(at_edge(before, "out", q)) is layer
    other = nn.Linear(8, 8)
    assert torch.equal(rewrapped(before, other)(x), other(q(x)))


@pytest.mark.parametrize("which", range(3))
def test_a_wrapper_can_be_copied_told_and_built_again(which: int) -> None:
    x, edge = drawn(TOKENS), at_edge(nn.Linear(8, 8), "in", quantizers()[which])
    tensors: dict[str, Tensor] = {}

    def name(t: Tensor) -> str:
        tensors[str(id(t))] = t
        return str(id(t))

    data = told(edge, name=name, known={})
    again = built(data, tensors=tensors, originals={}, encodings=())
    for twin in (copy.deepcopy(edge), again):
        assert type(twin) is type(edge) and torch.equal(twin(x), edge(x))


def moment(step: int, time: float) -> Moment:
    return Moment(step=step, level=Level(time=time, signal=0.6, noise=0.8), request=Request())


def test_each_step_has_its_own_range_for_a_while() -> None:
    x = drawn(TOKENS)
    q = quantizers()[2]
    net = nn.Sequential(at_edge(nn.Identity(), "in", q), nn.Sequential(copy.deepcopy(q)))
    assert torch.equal(net(x), x)
    for step, time, scale, zero in ((1, 100.0, 0.5, 1), (0, 900.0, 0.1, 3)):
        want = torch.fake_quantize_per_tensor_affine(x, scale, zero, 0, 15)
        with during(net, moment(step, time)):
            assert torch.allclose(q(x), want) and torch.allclose(net(x), want)
    assert torch.equal(net(x), x)


@pytest.mark.parametrize(("step", "time"), ((2, 50.0), (0, 100.0), (1, 99.0)))
def test_a_step_without_a_range_is_refused_and_leaves_no_trace(step: int, time: float) -> None:
    net = at_edge(nn.Identity(), "in", quantizers()[2])
    refused = pytest.raises(PlanError, match="found for 2 steps, at times 900, 100")
    with refused, during(net, moment(step, time)):
        pass
    with pytest.raises(ZeroDivisionError), during(net, moment(1, 100.0)):
        raise ZeroDivisionError
    assert net.quantizer.step is None


def test_what_has_no_deployed_form_is_told() -> None:
    model = toys.chain()
    graph = trace(model, lambda m, x: m(x), toys.images(2))
    model.conv2 = at_edge(model.conv2, "in", live(UInt(bits=8), 1, -1))  # type: ignore[arg-type]
    with pytest.raises(ModelError, match="LiveQuantizer has no deployed form"):
        deploy(model, graph)
