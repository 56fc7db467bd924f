"""Laws of width: dropping is masking, repair is least squares, groups compose in any order.

Faults these laws must catch: columns counted per channel and not per place; a second moment of
the wrong width after another group left; repair that pulls weights to zero; a removal order that
forgets the columns already gone; a ratio rounded to no channel at all.
"""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from allot import part
from allot.errors import InputError, PlanError
from allot.num.channels import output_error, refit, removal_order
from allot.num.gram import patches_moment, rows_moment
from allot.option import Statistic
from allot.options.narrow import kept_gram, narrowed, positions
from allot.options.statistics import gram_of
from allot.options.width import Keep, Removal, kept_classes, kept_count, kept_positions, removals
from allot.site import Graph, Layer, Site, Touch
from allot.sweep import observed
from allot.task import call
from allot.trace import trace
from tests import toys


def moments(model: nn.Module, graph: Graph, x: Tensor) -> dict[Statistic, Tensor]:
    """The second moment of the input of every layer."""
    found: dict[Statistic, Tensor] = {}

    def watch(layer: Layer):  # type: ignore[no-untyped-def]
        def observe(value: Tensor) -> None:
            found[gram_of(layer)] = gram_of(layer).update(None, value)

        return observe

    hooks = {(layer.module, "in"): [watch(layer)] for layer in graph.layers}
    with observed(model, hooks), torch.no_grad():
        model(x)
    return found


def applied(
    model: nn.Module, graph: Graph, options: dict[str, Keep], stats: dict[Statistic, Tensor]
) -> nn.Module:
    """The model after the options, site by site in the given order (in place)."""
    for name, option in options.items():
        site = graph.site(name)
        for touch in site.touches:
            old = model.get_submodule(touch.module)
            new = option.apply(old, touch=touch, site=site, graph=graph, stats=stats)
            model.set_submodule(touch.module, new)
    return model


def conv_case(seed: int = 0) -> tuple[nn.Conv2d, Tensor]:
    g = torch.Generator().manual_seed(seed)
    conv = toys.seeded(nn.Conv2d(5, 4, (3, 2), stride=(2, 1), padding=(1, 0)), seed).double()
    assert isinstance(conv, nn.Conv2d)
    base = torch.randn(6, 3, 7, 6, generator=g, dtype=torch.float64)
    mixed = torch.cat([base, base[:, :2] * 2 - base[:, 1:3] * 0.5], 1).relu()
    return conv, mixed


def gram_for(conv: nn.Conv2d, x: Tensor) -> Tensor:
    return patches_moment(
        x,
        kernel=(3, 2),
        stride=(2, 1),
        padding=(1, 0),
        dilation=(1, 1),
        groups=1,
    )


def test_the_second_moment_gives_the_energy_of_the_output() -> None:
    """sum over places of |W p|^2 = tr W G W^T, with the convolution itself as the oracle."""
    conv, x = conv_case()
    w = conv.weight.reshape(4, -1)
    energy = functional.conv2d(x, conv.weight, stride=(2, 1), padding=(1, 0)).square().sum()
    torch.testing.assert_close(energy, (w @ gram_for(conv, x)[0] @ w.T).trace())


def test_the_second_moment_of_groups_is_that_of_each_group_alone() -> None:
    x = toys.images(3, channels=6, seed=2).double()
    setting = {"kernel": (3, 3), "stride": (1, 1), "padding": (1, 1), "dilation": (1, 1)}
    whole = patches_moment(x, groups=3, **setting)
    for i in range(3):
        alone = patches_moment(x[:, 2 * i : 2 * i + 2], groups=1, **setting)
        torch.testing.assert_close(alone[0], whole[i])


@pytest.mark.parametrize("kind", ["conv2d", "linear"])
def test_second_moments_do_not_depend_on_how_samples_are_batched(kind: str) -> None:
    x = toys.images(6) if kind == "conv2d" else torch.randn(6, 5, 4)
    gram = gram_of(
        Layer(
            module="m",
            op=kind,
            weight=(2, 3, 3, 3) if kind == "conv2d" else (2, 4),
            stride=(1, 1),
            padding=(1, 1),
            dilation=(1, 1),
            in_shape=(),
            out_shape=(),
            macs=0,
        )
    )
    whole = gram.update(None, x)
    parts = gram.update(gram.update(gram.update(None, x[:1]), x[1:5]), x[5:])
    torch.testing.assert_close(whole, parts, rtol=1e-12, atol=1e-12)


def test_a_linear_over_tokens_counts_every_token() -> None:
    x = torch.randn(3, 5, 4, dtype=torch.float64)
    torch.testing.assert_close(torch.einsum("ntk,ntl->kl", x, x), rows_moment(x)[0])


def test_refitting_is_never_worse_than_dropping_and_keeps_all_where_nothing_leaves() -> None:
    conv, x = conv_case()
    w, gram = conv.weight.detach().reshape(4, -1), gram_for(conv, x)[0]
    for n in (6, 12, 18, 24):
        kept = torch.arange(n)
        repaired = output_error(w, refit(w, gram, kept), gram, kept)
        dropped = output_error(w, w[:, kept], gram, kept)
        assert repaired <= dropped
        assert repaired < 0.9 * dropped
    assert torch.equal(w, refit(w, gram, torch.arange(30)))


def test_refitting_is_the_least_squares_solution() -> None:
    """Against an independent solver on the data themselves."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(200, 6, generator=g, dtype=torch.float64) @ torch.randn(
        6, 6, generator=g, dtype=torch.float64
    )
    w, kept = torch.randn(3, 6, generator=g, dtype=torch.float64), torch.tensor([0, 2, 5])
    best = torch.linalg.lstsq(x[:, kept], x @ w.T).solution.T
    torch.testing.assert_close(best, refit(w, x.T @ x, kept, damp=1e-12))


def test_a_duplicate_channel_leaves_without_any_error() -> None:
    conv, x = conv_case()
    x = x.clone()
    x[:, 4] = 2 * x[:, 1]
    keep, gram = (0, 1, 2, 3), gram_for(conv, x)
    touch = Touch(module="m", role="in", index=(0, 1, 2, 3, 4))
    small = narrowed(conv, touch, keep, gram=gram)
    torch.testing.assert_close(conv(x), small(x[:, :4]), rtol=1e-3, atol=1e-3)
    plain = narrowed(conv, touch, keep)
    assert (plain(x[:, :4]) - conv(x)).abs().max() > 0.1


def test_the_first_to_leave_is_the_cheapest_by_enumeration() -> None:
    g = torch.Generator().manual_seed(4)
    x = torch.randn(300, 8, generator=g, dtype=torch.float64) @ torch.randn(
        8, 8, generator=g, dtype=torch.float64
    )
    w, gram = torch.randn(5, 8, generator=g, dtype=torch.float64), x.T @ x
    owner = torch.arange(4).repeat_interleave(2)
    order = removal_order([(w, gram, owner)], classes=4, damp=1e-10)

    def error(gone: tuple[int, ...]) -> float:
        kept = torch.tensor([i for i in range(8) if int(owner[i]) not in gone])
        return output_error(w, refit(w, gram, kept, damp=1e-10), gram, kept)

    first = min(itertools.combinations(range(4), 1), key=error)
    second = min(((first[0], c) for c in range(4) if c != first[0]), key=error)
    assert [*second] == order[:2].tolist()
    assert [0, 1, 2, 3] == sorted(order.tolist())


def test_a_dead_channel_leaves_first() -> None:
    conv, x = conv_case()
    x = x.clone()
    x[:, 3] = 0
    owner = torch.arange(5).repeat_interleave(6)
    reader = (conv.weight.detach().reshape(4, -1), gram_for(conv, x)[0], owner)
    assert 3 == removal_order([reader], classes=5)[0]


def test_keeping_everything_changes_nothing() -> None:
    model = toys.padded()
    graph = trace(model, call, toys.images(2))
    x = toys.images(16, seed=9)
    stats, before = moments(model, graph, x), model(x)
    keeps = {s.name: Keep(ratio=1.0) for s in graph.sites if s.kind == "channels" and not s.fixed}
    assert torch.equal(before, applied(model, graph, keeps, stats)(x))
    assert all(k.is_original and not k.needs(graph.site(n), graph) for n, k in keeps.items())


def test_the_order_of_groups_does_not_matter() -> None:
    x = toys.images(32, seed=9).double()
    make = lambda: toys.dense().double()  # noqa: E731
    graph = trace(make(), call, x[:2])
    stats = moments(make(), graph, x)
    stats |= removals(make(), graph, stats)
    names = [s.name for s in graph.sites if s.kind == "channels" and not s.fixed]
    keeps = {n: Keep(ratio=0.5) for n in names}
    forwards = applied(make(), graph, keeps, stats)(x)
    backwards = applied(make(), graph, dict(reversed(keeps.items())), stats)(x)
    # equal but for the ridge, which each group adds anew
    torch.testing.assert_close(forwards, backwards, rtol=1e-2, atol=1e-2)
    assert (forwards - make()(x)).abs().max() > 0.05


@pytest.mark.parametrize("make", [toys.chain, toys.residual, toys.dense, toys.separable])
def test_repair_brings_the_output_nearer_to_the_original(make) -> None:  # type: ignore[no-untyped-def]
    x = toys.images(64, seed=9).double()
    model = make().double()
    graph = trace(model, call, x[:2])
    stats = moments(model, graph, x)
    order = removals(model, graph, stats)
    names = [s.name for s in graph.sites if s.kind == "channels" and not s.fixed]
    for name in names:
        keeps = {name: Keep(ratio=0.6)}
        repaired = applied(make().double(), graph, keeps, stats | order)(x)
        dropped = applied(make().double(), graph, keeps, order)(x)
        goal = model(x)
        assert (repaired - goal).square().mean() < (dropped - goal).square().mean(), name


def test_smaller_ratios_keep_a_part_of_what_larger_ones_keep() -> None:
    x = toys.images(16)
    model = toys.chain()
    graph = trace(model, call, x[:2])
    stats = moments(model, graph, x)
    site = graph.site("conv1.channels")
    for known in (stats | removals(model, graph, stats), stats, {}):
        sets = [set(kept_classes(site, known, graph, r / 8)) for r in range(1, 9)]
        assert [len(s) for s in sets] == list(range(1, 9))
        assert all(a < b for a, b in itertools.pairwise(sets))


def test_kept_positions_are_those_whose_rows_stay() -> None:
    x = toys.images(16)
    model = toys.padded()
    graph = trace(model, call, x[:2])
    stats = moments(model, graph, x)
    keeps = {"conv1.channels": Keep(ratio=0.5), "layer2.0.conv1.channels": Keep(ratio=0.75)}
    small = applied(toys.padded(), graph, keeps, stats)
    original = dict(model.named_modules())
    for name in [*graph.norms, *(layer.module for layer in graph.layers)]:
        kept = kept_positions(name, keeps, graph=graph, stats=stats)
        module = small.get_submodule(name)
        assert positions(module, "out") == tuple(kept.tolist()), name
        assert torch.equal(original[name].bias[kept], module.bias) if module.bias is not None else 1
    assert 4 * 0.5 + 4 == len(kept_positions("layer2.0.conv2", keeps, graph=graph, stats=stats))


def test_the_second_moment_follows_a_narrowed_layer() -> None:
    conv, x = conv_case()
    touch = Touch(module="m", role="in", index=(0, 1, 2, 3, 4))
    small = narrowed(conv, touch, (1, 4))
    expected = gram_for(conv, x[:, [1, 4]])
    torch.testing.assert_close(expected, kept_gram(small, gram_for(conv, x)))
    assert kept_gram(small, expected) is expected


def test_positions_without_a_class_always_stay() -> None:
    conv = toys.seeded(nn.Conv2d(4, 3, 1))
    small = narrowed(conv, Touch(module="m", role="out", index=(-1, 0, 1)), (1,))
    assert (0, 2) == positions(small, "out")
    assert torch.equal(conv.weight[[0, 2]], small.weight)
    with pytest.raises(PlanError, match="without channels"):
        narrowed(conv, Touch(module="m", role="out", index=(0, 1, 2)), ())


def test_narrowing_shares_nothing_with_the_original_and_keeps_what_trains() -> None:
    conv = toys.seeded(nn.Conv2d(4, 3, 1)).requires_grad_(False)
    before = conv.weight.clone()
    small = narrowed(conv, Touch(module="m", role="in", index=(0, 1, 2, 3)), (0, 1, 2, 3))
    with torch.no_grad():
        small.weight.zero_()
    assert torch.equal(before, conv.weight) and not small.weight.requires_grad


def test_without_readers_the_smallest_makers_leave_first() -> None:
    norm = toys.seeded(nn.BatchNorm2d(3))
    conv = toys.seeded(nn.Conv2d(2, 3, 1))
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 0.01, 1.0]))
    touches = tuple(
        Touch(module=n, role=r, index=(0, 1, 2)) for n, r in (("0", "out"), ("1", "norm"))
    )
    site = Site(name="0.channels", kind="channels", shape=(3,), touches=touches, reach=("0",))
    graph = Graph(layers=(), sites=(site,), norms=("1",), order=())
    orders = removals(nn.Sequential(conv, norm), graph, {})
    assert 1 == orders[Removal(module=site.name)][0]


@pytest.mark.parametrize("ratio", [0.0, -0.5, 1.5])
def test_a_ratio_outside_0_to_1_is_refused(ratio: float) -> None:
    with pytest.raises(InputError, match="share of channels"):
        Keep(ratio=ratio)


def test_an_option_is_its_own_dump_and_says_what_it_keeps() -> None:
    option = Keep(ratio=0.75)
    site = Site(name="s", kind="channels", shape=(6,), touches=(), reach=())
    assert option == part.load(option.dump()) and "keep0.75" == option.label
    assert (5, 1) == (option.effect(site).keep, kept_count(site, 0.01))
