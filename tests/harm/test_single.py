"""Laws of one at a time: the table says what was measured, from the first point of the space.

Faults these laws must catch: an option measured beside another; a base that is not taken off; a
share that is not handed on; a negative harm of one option; batches out of order.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
from torch import nn

from allot.harm.single import measured, only, single
from allot.scene import Scene
from allot.space import Point
from tests import toys
from tests.harm import laws, scenes


def loss(s: Scene, point: Point) -> float:
    return s.evaluator.losses([point])[0].divergence


@pytest.mark.parametrize("make", (toys.chain, toys.separable, toys.dense))
def test_every_option_has_the_divergence_that_is_measured_with_it_alone(
    make: Callable[[], nn.Module],
) -> None:
    s = scenes.scene(make)
    table = single(s)
    assert table.unit == "nat" and table.of(s.space.original) == 0
    assert [t.at for t in table.terms] == [(i,) for i in range(len(s.space.choices))]
    for i, n in enumerate(s.space.counts):
        for o in range(1, n):
            point = only(s.space.original, {i: o})
            assert table.of(point) == pytest.approx(loss(s, point), rel=1e-12)
            assert table.of(point) > 0


def test_it_is_counted_from_the_pinned_network() -> None:
    s = scenes.pinned(scenes.scene(), conv1_weight="W2", conv2_input="A4")
    table = single(s)
    base = loss(s, s.space.original)
    assert table.constant == base == table.of(s.space.original) > 0
    for i, n in enumerate(s.space.counts):
        point = only(s.space.original, {i: n - 1})
        assert table.of(point) == pytest.approx(max(base, loss(s, point)), rel=1e-12)
        assert min(table.single(i, n)) >= 0


def test_every_point_is_measured_once_and_in_a_few_batches() -> None:
    s = scenes.scene()
    shares: list[float] = []
    single(s, progress=shares.append)
    assert shares == sorted(shares) and shares[-1] == 1
    assert isinstance(s.evaluator, scenes.Plain)
    assert sum(s.evaluator.calls) == 1 + sum(n - 1 for n in s.space.counts)
    assert len(s.evaluator.calls) <= 8


def test_a_share_is_the_loss_on_the_first_samples() -> None:
    s = scenes.scene(search=20)
    table = single(s, share=0.25)
    point = only(s.space.original, {0: 3})
    (whole,) = s.evaluator.losses([point])
    assert table.of(point) == pytest.approx(sum(whole.divergences[:5]) / 5, rel=1e-12)
    assert "25%" in table.origin and table.origin != single(s).origin


@pytest.mark.parametrize("count", (1, 7, 8, 9, 20))
def test_divergences_come_in_the_order_of_the_points(count: int) -> None:
    s = scenes.scene()
    points = [only(s.space.original, {1: 1 + k % 7, 3: 1 + k % 5}) for k in range(count)]
    assert measured(s, points) == [loss(s, p) for p in points]


def test_it_is_a_signal() -> None:
    laws.leaves_no_trace(single)
    laws.repeats_itself(single)
    laws.asks_not_in_which_order_sites_are_tied(single)
