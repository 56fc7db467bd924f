"""Laws of the trie: sharing saves what it claims, and costs add up whatever the batch.

Faults these laws must catch: tied sites forgotten; a batch that starts nowhere; equal points paid
twice; a rest of the samples paid as a whole; a share rounded down to nothing.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest

from allot.options.precision import Weight
from allot.space import Choice, Space
from allot.trie import batch_costs, batches, enumeration_cost, opening, touched, trie, wanted
from tests import small, toys


def weights(make: object = toys.residual, *groups: tuple[str, ...], bits: int = 3) -> Space:
    """Options float, 4 and 3 bits for groups of layers; every layer alone without groups."""
    graph = small.kit(make).graph  # type: ignore[arg-type]
    options = (Weight(bits=32), Weight(bits=4), Weight(bits=3))[:bits]
    found = groups or tuple((x.module,) for x in graph.layers)
    sites = [tuple(f"{m}.weight" for m in g) for g in found]
    choices = tuple(Choice(site=s[0], tied=s[1:], options=options) for s in sites)
    return Space(graph=graph, choices=choices)


def cost(space: Space, points: list[tuple[int, ...]], **changes: object) -> list[float]:
    given = {"known": {}, "want": 10, "samples": 10, "calibration": 0, **changes}
    return batch_costs(trie(space), points, original=space.original, **given)  # type: ignore


@pytest.mark.parametrize("make", toys.PLAIN)
def test_tails_fall_and_are_shares_of_all_macs(make: object) -> None:
    space = small.kit(make).space  # type: ignore[arg-type]
    tree = trie(space)
    assert sorted(tree.order) == list(range(len(space.choices)))
    assert list(tree.starts) == sorted(tree.starts)
    assert list(tree.tails) == sorted(tree.tails, reverse=True)
    assert 0 <= tree.tails[-1] and tree.tails[0] <= 1


def test_a_tail_is_what_layers_from_the_first_touched_one_on_multiply() -> None:
    space = weights(toys.chain)
    macs = [x.macs for x in space.graph.layers]
    want = [sum(macs[i:]) / sum(macs) for i in range(len(macs))]
    assert trie(space).tails == pytest.approx(want)


def test_a_tied_choice_starts_at_the_first_module_of_all_its_sites() -> None:
    space = weights(toys.chain, ("head", "conv1"), ("conv2",))
    assert touched(space, space.choices[0]) == ["head", "conv1"]
    tree = trie(space)
    assert tree.order == (0, 1) and tree.tails[0] == 1 > tree.tails[1]


def test_order_follows_execution_and_not_the_space() -> None:
    space = weights(toys.chain)
    turned = replace(space, choices=space.choices[::-1])
    assert trie(turned).order == (2, 1, 0) and trie(turned).tails == trie(space).tails
    point = (0, 1, 2)
    assert trie(turned).path(point[::-1]) == trie(space).path(point)


@pytest.mark.parametrize("make", (toys.chain, toys.dense, toys.separable))
def test_a_full_enumeration_costs_the_formula(make: object) -> None:
    space = weights(make)
    tree = trie(space)
    points = [tuple(map(int, p)) for p in np.ndindex(*space.counts)]
    n, k = len(space.choices), 3
    shares = -np.diff([*tree.tails, 0.0])
    formula = k**n * sum(c * k ** (d + 1 - n) for d, c in enumerate(shares))
    assert opening(space, samples=10, calibration=0) + sum(cost(space, points)) == pytest.approx(
        formula + 1 - tree.tails[0]
    )
    assert enumeration_cost(tree, space.counts) == pytest.approx(formula + 1 - tree.tails[0])


def test_costs_belong_to_points_in_whatever_order_they_are_given() -> None:
    space = weights()
    points = [small.random_point(space, s) for s in range(12)]
    found = dict(zip(points, cost(space, points), strict=True))
    mixed = points[5:] + points[:5]
    assert dict(zip(mixed, cost(space, mixed), strict=True)) == found


def test_sharing_never_costs_more_than_running_alone() -> None:
    space = weights()
    points = [small.random_point(space, s) for s in range(20)]
    alone = [cost(space, [p])[0] for p in points]
    together = cost(space, points)
    assert all(a >= b - 1e-12 for a, b in zip(alone, together, strict=True))
    assert sum(together) < sum(alone) and max(alone) <= 1


def test_known_and_equal_points_and_the_original_are_free() -> None:
    space = weights(toys.chain)
    a, b = (1, 0, 0), (2, 0, 0)
    assert cost(space, [a, a, space.original]) == [1.0, 0.0, 0.0]
    assert cost(space, [a, b], known={a: 10}) == [0.0, 1.0]


def test_a_rest_is_paid_pro_rata_and_calibration_again() -> None:
    space = weights(toys.chain)
    a = (1, 2, 0)
    assert cost(space, [a], want=4, calibration=5) == pytest.approx([0.9])
    assert cost(space, [a], known={a: 4}, calibration=5) == pytest.approx([1.1])
    assert cost(space, [a], known={a: 4}, want=3) == [0.0]


def test_batches_hold_every_lacking_point_once_and_sorted() -> None:
    space = weights(toys.chain)
    tree = trie(space)
    points = list(itertools.product(range(3), repeat=3))[::-1]
    known = {points[0]: 10, points[1]: 4}
    found = batches(tree, [*points, *points], known=known, want=10)
    assert [done for done, _ in found] == [0, 4]
    assert sorted(p for _, group in found for p in group) == sorted(points[1:])
    assert all(group == sorted(group, key=tree.path) for _, group in found)


def test_a_share_is_rounded_up() -> None:
    assert [wanted(s, 30) for s in (1.0, 0.1, 0.11, 1e-9)] == [30, 3, 4, 1]


def test_a_pinned_first_point_is_paid_at_the_start() -> None:
    space = weights(toys.chain)
    cut = [replace(c, options=c.options[1:]) for c in space.choices]
    pinned = replace(space, choices=tuple(cut))
    assert opening(space, samples=10, calibration=5) == 1
    assert opening(pinned, samples=10, calibration=5) == 2.5
