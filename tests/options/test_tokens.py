"""Laws of tokens: the first one and a share of the others go on, in order, and are billed as seen.

Faults these laws must catch: a share of the original's tokens where it is one of what arrives; the
class token left out; tokens turned round; a place that is billed where nothing reads it; bytes
that change; an index stored in the file.
"""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import Tensor, nn

from allot import bill, packed
from allot.deploy import deploy
from allot.errors import InputError
from allot.latency import of_state
from allot.layer_times import needed
from allot.onnx_graph import to_onnx
from allot.option import Option, Stats, kept_tokens
from allot.options import precision
from allot.options.tokens import KeepTokens, Length, Order, Spread, Thinned, space
from allot.runtimes import OnnxRuntime, OpenVino
from allot.runtimes.ideal import Ideal
from allot.site import Graph, Site
from allot.space import Point
from allot.target import Workload
from allot.testing import OptionLaws
from tests import attention, small, toys

MAKES = (attention.made(depth=4), attention.made(entries=2, pool="mean"))
kinds = functools.cache(lambda i: attention.kit(MAKES[i]))


def tokens(n: int = 3, t: int = 17, c: int = 8, seed: int = 0) -> Tensor:
    return torch.randn(n, t, c, generator=torch.Generator().manual_seed(seed))


def thinned(x: Tensor, ratio: float, order: Order) -> Tensor:
    y = Thinned(inner=nn.Identity(), ratio=ratio, order=order)(x)
    assert isinstance(y, Tensor)
    return y


class TestKeepTokens(OptionLaws):
    def option(self) -> Option:
        return KeepTokens(ratio=0.5, order=Length())

    def original(self) -> Option:
        return KeepTokens(ratio=1.0)

    def place(self) -> tuple[nn.Module, Graph, Site, Stats]:
        k = kinds(0)
        return k.task.model, k.graph, k.graph.site("layers.1.tokens"), {}


@pytest.mark.parametrize("ratio", [0.0, -0.1, 1.1])
def test_a_share_that_is_none_is_refused(ratio: float) -> None:
    with pytest.raises(InputError, match="share of tokens"):
        KeepTokens(ratio=ratio)


@pytest.mark.parametrize("t", [2, 5, 17, 50, 197])
def test_the_number_that_goes_on(t: int) -> None:
    for percent in range(1, 101):
        n = kept_tokens(t, percent / 100)
        assert n == 1 + math.ceil(percent * (t - 1) / 100) and 1 < n <= t
    assert kept_tokens(t, 1.0) == t


@pytest.mark.parametrize("order", [Spread(), Length()])
@pytest.mark.parametrize("ratio", [0.2, 0.5, 0.75])
def test_the_first_and_others_go_on_in_their_order(order: Order, ratio: float) -> None:
    x = tokens()
    y = thinned(x, ratio, order)
    assert y.shape == (3, kept_tokens(17, ratio), 8) and torch.equal(x[:, 0], y[:, 0])
    for a, b in zip(x, y, strict=True):
        places = [int((a == row).all(1).nonzero()) for row in b]
        assert places == sorted(set(places))


@pytest.mark.parametrize("order", [Spread(), Length()])
def test_a_smaller_share_is_among_a_larger(order: Order) -> None:
    x = tokens()
    few, many = thinned(x, 0.3, order), thinned(x, 0.7, order)
    for a, b in zip(few, many, strict=True):
        assert all(bool((b == row).all(1).any()) for row in a)


def test_the_longest_stay() -> None:
    x = tokens()
    others = thinned(x, 0.5, Length())[:, 1:].norm(dim=2).sort(dim=1).values
    assert torch.equal(others, x[:, 1:].norm(dim=2).sort(dim=1).values[:, -8:])


@pytest.mark.parametrize("t", [10, 50, 197])
def test_spread_places_leave_gaps_of_three_lengths(t: int) -> None:
    x = torch.arange(t, dtype=torch.float32).reshape(1, t, 1)
    for ratio in (0.25, 0.5, 0.75):
        places = thinned(x, ratio, Spread())[0, 1:, 0]
        gaps = places.diff()
        assert len(gaps.unique()) <= 3 and gaps.max() <= 3 / ratio


def test_gradients_reach_what_stays_and_nothing_else() -> None:
    x = tokens().requires_grad_()
    thinned(x, 0.5, Length()).sum().backward()
    assert x.grad is not None and float(x.grad.sum()) == 3 * 9 * 8
    assert set(x.grad.unique().tolist()) == {0.0, 1.0}


@pytest.mark.parametrize("i", range(len(MAKES)))
def test_the_bill_is_what_a_forward_shows(i: int) -> None:
    k = kinds(i)
    for seed in range(5):
        point = small.random_point(k.space, seed)
        there = attention.counted(k, k.bank.copy(k.bank.standins(k.options(point))))
        for x in k.graph.layers:
            s = bill.state(k.space, x, point)
            assert there[x.module] == (0 if s.gone else s.elements, pytest.approx(s.macs))


def test_two_places_in_a_row_count_what_arrives_by_hand() -> None:
    k = kinds(0)
    point = small.at(k.space, layers_0_tokens="tokens0.7", layers_1_tokens="tokens0.3")
    # 16 others: 12 stay (11.2 rounded up), then 4 (3.6 rounded up)
    at = {f"layers.{i}": n for i, n in enumerate((17, 13, 5, 5))}
    macs = {x.module: bill.state(k.space, x, point).macs for x in k.graph.layers}
    for name, n in at.items():
        assert macs[f"{name}.attention.key"] == n * 8 * 8 and macs[f"{name}.up"] == n * 8 * 12
    assert macs["patches"] == 16 * 12 * 8 and macs["head"] == 40
    total = bill.bitops(k.space, Ideal()).of(point)
    assert total == sum(macs.values()) * 1024


@pytest.mark.parametrize("i", range(len(MAKES)))
def test_bytes_do_not_change(i: int) -> None:
    k = kinds(i)
    places = {j for j, c in enumerate(k.space.choices) if c.options[0].kind == "tokens"}
    size = bill.size(k.space, header=0)
    for seed in range(5):
        point = small.random_point(k.space, seed)
        whole = tuple(0 if j in places else o for j, o in enumerate(point))
        assert size.of(point) == size.of(whole)


def test_layers_are_timed_with_the_tokens_that_arrive() -> None:
    k, target = kinds(0), OpenVino()
    s = precision.space(k.graph, target) + space(k.graph, target)
    wanted = set(needed(s, target))
    for seed in range(5):
        point = small.random_point(s, seed)
        for x in k.graph.layers:
            state = bill.state(s, x, point)
            found = of_state(state, target)
            assert found in wanted
            if state.all_tokens > 1:
                assert found.size == (state.tokens,)


def test_a_space_has_two_places_at_most_that_every_target_takes() -> None:
    graph = kinds(0).graph
    for target in (Ideal(), OpenVino(), OnnxRuntime()):
        found = space(graph, target).only(lambda o, s, t=target: t.can(o, s, graph))  # type: ignore[misc]
        assert [c.site for c in found.choices] == ["layers.0.tokens", "layers.1.tokens"]
        labels = [o.label for o in found.choices[0].options]
        assert labels == ["tokens1", "tokens0.75", "tokens0.5"]
    assert space(small.kit().graph, Ideal()).choices == ()


def test_the_exported_file_runs_in_both_runtimes_and_stores_no_places() -> None:
    k = kinds(0)
    options: dict[str, Option] = {
        "layers.0.tokens": KeepTokens(ratio=0.75, order=Spread()),
        "layers.2.tokens": KeepTokens(ratio=0.5, order=Length()),
    }
    deployed = deploy(k.bank.copy(k.bank.standins(options)), k.graph)
    x = toys.images(6, seed=4)
    found = packed.pack(to_onnx(deployed, x[:2]), deployed, k.graph)
    original: Point = k.space.original
    want = bill.size(k.space, header=packed.header_bytes(k.graph)).of(original)
    assert len(found.weights) == want
    for target in (OnnxRuntime(), OpenVino()):
        session = target.open(packed.unpack(found), workload=Workload(batch=6))
        got = torch.from_numpy(session.run({"input": x.numpy()})["output"])
        with torch.no_grad():
            torch.testing.assert_close(got, deployed(x), rtol=1e-3, atol=1e-3)
