"""Laws of harm: a table says what was measured, from the network that is pinned.

Faults these laws must catch: an option measured beside another; a base that is not taken off; a
pair counted twice; a pair term of the wrong orientation; a negative harm of one option.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from allot.harm.one_at_a_time import add_pairs, changed, one_at_a_time
from allot.recover import LIGHT
from allot.space import Point, Space
from allot.table import Table, Term
from tests import small, toys


def single(k: small.Kit, space: Space | None = None) -> Table:
    return one_at_a_time(space or k.space, k.meter)


def loss(k: small.Kit, space: Space, point: Point) -> float:
    return k.meter.loss(space.options(point), recovery=LIGHT).divergence


@pytest.mark.parametrize("make", (toys.chain, toys.separable, toys.dense))
def test_every_option_has_the_divergence_that_is_measured_with_it_alone(make: object) -> None:
    k = small.kit(make)  # type: ignore[arg-type]
    table = single(k)
    assert table.unit == "nat" and table.of(k.space.original) == 0
    assert [t.at for t in table.terms] == [(i,) for i in range(len(k.space.choices))]
    for i, n in enumerate(k.space.counts):
        for o in range(n):
            point = changed(k.space.original, {i: o})
            assert table.of(point) == pytest.approx(loss(k, k.space, point), rel=1e-12)
            assert o == 0 or table.of(point) > 0


def test_it_is_counted_from_the_pinned_network() -> None:
    k = small.kit()
    pinned = k.space.pin("conv1.weight", "W2").pin("conv2.input", "A4")
    table = single(k, pinned)
    base = loss(k, pinned, pinned.original)
    assert table.constant == base == table.of(pinned.original) > 0
    for i, n in enumerate(pinned.counts):
        point = changed(pinned.original, {i: n - 1})
        want = max(base, loss(k, pinned, point))
        assert table.of(point) == pytest.approx(want, rel=1e-12)
        assert min(table.single(i, n)) >= 0


def test_progress_rises_to_one_and_every_option_is_measured_once() -> None:
    k = small.kit()
    shares: list[float] = []
    one_at_a_time(k.space, k.meter, progress=shares.append)
    assert shares == sorted(shares) and shares[-1] == 1
    assert len(shares) == sum(n - 1 for n in k.space.counts)
    before = k.meter.passes
    single(k)
    assert k.meter.passes == before


def middle(space: Space) -> Point:
    return tuple(min(4, n - 1) for n in space.counts)


def test_a_pair_meets_what_is_measured_with_both() -> None:
    k = small.kit()
    plain, around = single(k), middle(k.space)
    table = add_pairs(plain, k.space, k.meter, around=around, most=9)
    pairs = [t for t in table.terms if len(t.at) == 2]
    assert len(pairs) == 9 == len({t.at for t in pairs})
    met = 0
    for t in pairs:
        i, j = t.at
        both = changed(k.space.original, {i: around[i], j: around[j]})
        a, b = plain.single(i, k.space.counts[i]), plain.single(j, k.space.counts[j])
        scale = (a[around[i]] * b[around[j]]) ** 0.5
        measured = loss(k, k.space, both)
        if abs(measured - a[around[i]] - b[around[j]]) < 2 * scale:
            assert table.of(both) == pytest.approx(measured, rel=1e-9)
            met += 1
    assert met >= 5


def test_a_pair_with_an_original_adds_nothing() -> None:
    k = small.kit()
    plain = single(k)
    table = add_pairs(plain, k.space, k.meter, around=middle(k.space))
    for i, n in enumerate(k.space.counts):
        for o in range(n):
            point = changed(k.space.original, {i: o})
            assert table.of(point) == plain.of(point)


def test_a_pair_is_bounded_by_what_a_squared_length_allows() -> None:
    k = small.kit()
    plain = single(k)
    table = add_pairs(plain, k.space, k.meter, around=middle(k.space))
    for t in table.terms[len(plain.terms) :]:
        a, b = (plain.single(i, k.space.counts[i]) for i in t.at)
        assert t.values.shape == (len(a), len(b))
        bound = 2 * np.sqrt(np.outer(a, b))
        assert bool((np.abs(t.values) <= bound * (1 + 1e-12)).all())
        # so that two changes together are never foretold below nothing
        assert bool((a[:, None] + b[None] + t.values >= -1e-15).all())


def test_pairs_are_those_of_neighbours_with_the_largest_harm() -> None:
    k = small.kit(toys.residual)
    plain, around = single(k), middle(k.space)
    few = add_pairs(plain, k.space, k.meter, around=around, most=3)
    many = add_pairs(plain, k.space, k.meter, around=around, most=30)

    def size(t: Term) -> float:
        return -float(np.prod([plain.single(i, k.space.counts[i])[around[i]] for i in t.at]))

    pairs = many.terms[len(plain.terms) :]
    assert [t.at for t in pairs] == [t.at for t in sorted(pairs, key=size)]
    assert [t.at for t in few.terms[len(plain.terms) :]] == [t.at for t in pairs[:3]]


def test_around_the_original_there_are_no_pairs() -> None:
    k = small.kit()
    plain = single(k)
    table = add_pairs(plain, k.space, k.meter, around=k.space.original)
    assert table.terms == plain.terms


def test_pairs_are_counted_from_the_pinned_network() -> None:
    k = small.kit()
    pinned = k.space.pin("conv1.weight", "W3")
    plain = single(k, pinned)
    around = tuple(min(4, n - 1) for n in pinned.counts)
    table = add_pairs(plain, pinned, k.meter, around=around, most=4)
    assert table.constant == plain.constant > 0
    for t in table.terms[len(plain.terms) :]:
        both = changed(pinned.original, {i: around[i] for i in t.at})
        parts = [
            replace(plain, constant=0).of(changed(pinned.original, {i: around[i]})) for i in t.at
        ]
        excess = loss(k, pinned, both) - plain.constant - sum(parts)
        if abs(excess) < 2 * (parts[0] * parts[1]) ** 0.5:
            assert table.of(both) == pytest.approx(loss(k, pinned, both), rel=1e-9)
