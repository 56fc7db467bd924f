"""Laws of trace: what is free really narrows, boundaries cover all readers, nothing is left behind.

Faults these laws must catch: a forgotten tie of a residual add; pads taken for channels; a
boundary that misses the shortcut; a hook left on after an exception; MACs without stride.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from allot.errors import DataError, ModelError
from allot.proof import mask, narrow
from allot.site import Graph, Site
from allot.sweep import observed
from allot.task import call
from allot.trace import trace
from tests import toys

RESNET20_INNER = [f"layer{i}.{j}.conv1.channels" for i in (1, 2, 3) for j in range(3)]


def traced(model: nn.Module, size: int = 8) -> Graph:
    return trace(model, call, toys.images(2, size=size))


def free(graph: Graph) -> list[Site]:
    return [s for s in graph.sites if s.kind == "channels" and not s.fixed]


@pytest.fixture(scope="module")
def twenty() -> Graph:
    return traced(toys.resnet20(), size=32)


@pytest.mark.parametrize("make", toys.PLAIN)
def test_narrowing_equals_masking(make: Callable[[], nn.Module]) -> None:
    model, x = make().double(), toys.images(3, seed=5).double()
    groups = free(trace(model, call, x))
    cases = [{s: set(range(1, s.shape[0]))} for s in groups] + [
        {s: set(range(0, s.shape[0], 2)) for s in groups}
    ]
    for keeps in cases:
        small, masked = narrow(model, keeps)(x), mask(model, keeps)(x)
        assert torch.allclose(masked, small, rtol=1e-10, atol=1e-12), (masked - small).abs().max()


def test_resnet20_has_one_stream_of_16_through_all_stages_and_nine_inner_groups(
    twenty: Graph,
) -> None:
    sizes = {s.name: s.shape[0] for s in free(twenty)}
    widths = [16] * 3 + [32] * 3 + [64] * 3
    assert sizes == dict(zip(RESNET20_INNER, widths, strict=True)) | {"conv1.channels": 16}
    stream = twenty.site("conv1.channels")
    assert set(stream.reach) == {x.module for x in twenty.layers}
    at = {t.module: t.index for t in stream.touches if t.role == "out"}
    own = tuple(range(16))
    assert at["layer2.2.conv2"] == (-1,) * 8 + own + (-1,) * 8
    assert at["layer3.2.conv2"] == (-1,) * 24 + own + (-1,) * 24


def test_partners_of_padded_channels_are_fixed_and_say_why(twenty: Graph) -> None:
    fixed = [s for s in twenty.sites if s.kind == "channels" and s.fixed]
    assert [s.shape[0] for s in fixed] == [16, 32, 10]
    assert "pad" in fixed[0].fixed and "pad" in fixed[1].fixed and "output" in fixed[2].fixed


def test_every_channel_of_every_layer_output_belongs_to_exactly_one_group(twenty: Graph) -> None:
    owners: dict[tuple[str, str], list[list[bool]]] = {}
    for s in twenty.sites:
        for t in s.touches if s.kind == "channels" else ():
            owners.setdefault((t.module, t.role), []).append([c >= 0 for c in t.index])
    for layer in twenty.layers:
        rows = owners[layer.module, "out"]
        assert [1] * layer.weight[0] == [sum(c) for c in zip(*rows, strict=True)], layer.module


def test_macs_equal_a_hand_count(twenty: Graph) -> None:
    stem = 32 * 32 * 27 * 16
    stages = [
        6 * 32 * 32 * 144 * 16,
        16 * 16 * 144 * 32 + 5 * 16 * 16 * 288 * 32,
        8 * 8 * 288 * 64 + 5 * 8 * 8 * 576 * 64,
    ]
    assert stem + sum(stages) + 640 == sum(x.macs for x in twenty.layers) == 40_551_040


def test_folded_bytes_are_those_of_weights_and_one_bias_per_row(twenty: Graph) -> None:
    model = toys.resnet20()
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    count = sum(m.weight.numel() + m.out_channels for m in convs) + 640 + 10
    assert (4 * count, 0) == (twenty.folded_bytes, twenty.loose)
    assert all(x.norm for x in twenty.layers if x.op == "conv2d")


def test_activation_sites_of_resnet20_sit_where_the_shortcut_sees_them_too(twenty: Graph) -> None:
    def where(name: str) -> tuple[str, str]:
        (touch,) = twenty.site(name).touches
        return touch.module, touch.role

    assert ("layer1", "in") == where("layer1.0.conv1.input")
    assert ("layer1.0", "out") == where("layer1.1.conv1.input")
    assert ("layer1.0.conv2", "in") == where("layer1.0.conv2.input")
    assert ("linear", "in") == where("linear.input")


@pytest.mark.parametrize("make", [toys.chain, toys.residual, toys.padded, toys.separable])
def test_a_change_at_an_activation_site_reaches_every_reader(make: Callable[[], nn.Module]) -> None:
    """Zeros at a boundary that cuts the network leave an output that knows nothing of the input."""
    model = make()
    graph = traced(model)
    for site in (s for s in graph.sites if s.kind == "activation"):
        if site.name.startswith("layer") and site.name.endswith("conv2.input"):
            continue  # inside a block the shortcut goes round it
        seen: dict[str, Tensor] = {}
        hooks = {
            (site.touches[0].module, site.touches[0].role): [torch.zeros_like],
            **{(n, "in"): [_keep(seen, n)] for n in site.reach if n != site.touches[0].module},
        }
        with observed(model, hooks), torch.no_grad():
            first, second = model(toys.images(2, seed=7)), model(toys.images(2, seed=8))
        assert all(not x.any() for x in seen.values()), site.name
        assert torch.equal(first, second), f"{site.name}: something still reads the old tensor"


def _keep(seen: dict[str, Tensor], name: str) -> Callable[[Tensor], None]:
    def observe(x: Tensor) -> None:
        seen[name] = x

    return observe


@pytest.mark.parametrize("make", toys.PLAIN)
def test_every_layer_reads_one_activation_site_that_reaches_it(
    make: Callable[[], nn.Module],
) -> None:
    graph = traced(make())
    for layer in graph.layers:
        assert layer.module in graph.site(layer.input).reach
    assert len({s.name for s in graph.sites}) == len(graph.sites)


def test_joined_tensors_give_one_group_per_maker() -> None:
    groups = {s.name: (s.shape[0], s.reach) for s in free(traced(toys.dense()))}
    assert groups["conv1.channels"] == (6, ("conv1", "conv2", "conv3", "head"))
    assert groups["conv3.channels"] == (4, ("conv3", "head"))


def test_depthwise_convolutions_hand_their_channels_on() -> None:
    graph = traced(toys.separable())
    assert {"stem.0", "depth", "point"} == set(graph.site("stem.0.channels").reach)


def test_grouped_convolutions_are_fixed() -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Conv2d(8, 8, 1, groups=2), nn.Conv2d(8, 4, 1))
    assert free(traced(toys.seeded(net))) == []


def test_a_layer_called_twice_is_one_layer_with_summed_macs_and_fixed() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Conv2d(3, 6, 1)
            self.again = nn.Conv2d(6, 6, 1)
            self.last = nn.Conv2d(6, 4, 1)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.again(torch.relu(self.again(self.first(x)))))

    graph = traced(toys.seeded(Twice()))
    assert 2 * 64 * 36 == graph.layer("again").macs
    assert free(graph) == []
    assert graph.site("again.input").touches[0].module == "again"


def test_code_with_a_written_out_number_of_channels_fixes_the_group() -> None:
    graph = traced(toys.constant())
    assert ["conv1.channels"] == [s.name for s in free(graph)]
    assert "does not run" in graph.site("conv2.channels").fixed


def test_slicing_by_constants_is_found_out_by_narrowing() -> None:
    class Halves(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 8, 1)
            self.head = nn.Conv2d(4, 2, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.head(y[:, :4] * torch.sigmoid(y[:, 4:]))

    site = traced(toys.seeded(Halves())).site("conv.channels")
    assert site.shape == (4,) and site.fixed


def test_what_is_not_understood_is_counted_and_its_channels_stay() -> None:
    graph = traced(toys.strange())
    assert (("", "Strange", 6), ("odd", "Bilinear", 400)) == graph.unknown
    assert 4 * 406 == graph.loose
    assert free(graph) == []


def test_named_inputs_are_traced() -> None:
    graph = trace(toys.pair(), call, toys.pair_inputs(2))
    assert {"conv", "side", "head"} == set(graph.site("conv.channels").reach)


def test_equal_networks_have_equal_digests_whatever_their_weights() -> None:
    assert traced(toys.chain(0)).digest == traced(toys.chain(1)).digest
    assert traced(toys.chain(0)).digest != traced(toys.dense(0)).digest


@pytest.mark.parametrize("make", toys.PLAIN)
def test_the_digest_does_not_depend_on_the_example(make: Callable[[], nn.Module]) -> None:
    model = make()
    few, many = (trace(model, call, toys.images(n, seed=n)) for n in (1, 5))
    assert few.digest == many.digest


def test_every_start_has_its_end_and_norms_come_in_order() -> None:
    graph = traced(toys.chain())
    names = [n for n, m in toys.chain().named_modules() if n and not n.startswith("pool")]
    assert set(names) <= {n for n, _ in graph.order}
    assert graph.order.index(("bn1", "start")) < graph.order.index(("bn1", "end"))
    assert ("bn1", "bn2") == graph.norms


def _state(model: nn.Module) -> tuple[dict[str, Tensor], list[bool], int, list[bool]]:
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    asks = [p.requires_grad for p in model.parameters()]
    return copy.deepcopy(model.state_dict()), [m.training for m in model.modules()], hooks, asks


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_and_the_random_numbers_are_left_as_they_were(fails: bool) -> None:
    model = toys.chain().train()
    before, drawn = _state(model), torch.get_rng_state()
    if fails:
        with pytest.raises(DataError):
            trace(model, call, torch.zeros(2, 4, 8, 8))
    else:
        traced(model)
    after = _state(model)
    assert all(torch.equal(v, after[0][k]) for k, v in before[0].items())
    assert before[1:] == after[1:] and torch.equal(drawn, torch.get_rng_state())


def test_weights_that_are_not_finite_are_named() -> None:
    model = toys.chain()
    with torch.no_grad():
        model.get_parameter("conv2.weight")[0, 0, 0, 0] = float("nan")
    with pytest.raises(ModelError, match=r"conv2\.weight"):
        traced(model)


def test_a_random_network_is_refused_and_its_module_named() -> None:
    with pytest.raises(ModelError, match="'1'"):
        traced(toys.noisy())


def test_a_network_without_layers_is_refused() -> None:
    with pytest.raises(ModelError, match="no convolution"):
        traced(nn.Flatten())


def test_an_example_that_does_not_fit_is_told_with_its_shape() -> None:
    with pytest.raises(DataError, match=r"\[2, 5, 8, 8\]"):
        trace(toys.chain(), call, torch.zeros(2, 5, 8, 8))


@pytest.mark.parametrize("bad", [torch.zeros(0, 3, 8, 8), torch.full((2, 3, 8, 8), torch.nan)])
def test_an_empty_or_non_finite_example_is_refused(bad: Tensor) -> None:
    with pytest.raises(DataError):
        trace(toys.chain(), call, bad)


def test_an_output_that_is_no_batch_is_refused() -> None:
    with pytest.raises(ModelError, match="tensor"):
        trace(toys.chain(), lambda m, x: (m(x),), toys.images(2))
    with pytest.raises(ModelError, match="n = 2"):
        trace(toys.chain(), lambda m, x: m(x).sum(), toys.images(2))


def test_a_norm_whose_layer_has_another_reader_is_not_folded() -> None:
    class Peek(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.bn = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)

        def forward(self, x: Tensor) -> Tensor:
            y = self.conv(x)
            return self.bn(y) + functional.relu(y)

    graph = traced(toys.seeded(Peek()))
    assert "" == graph.layer("conv").norm and 8 * 4 == graph.loose
