"""Laws of fronts: nobody on it is beaten, nobody who is unbeaten is left out, files keep it.

Faults these laws must catch: a bill that is not compared; equal points that throw each other
out; a version that is not looked at.
"""

from __future__ import annotations

import json

import pytest
import torch

from allot.errors import ArtefactError
from allot.front import Front, Measured, load, unbeaten

KEYS = ("size", "bitops")


def measured(i: int, divergence: float, **bills: float) -> Measured:
    return Measured(
        point=(i, 2 * i),
        labels={"a": f"W{i}"},
        bills=bills,
        divergence=divergence,
        interval=(divergence * 0.9, divergence * 1.1),
        metric=0.9,
        predicted=divergence * 1.3,
        gap=0.01,
    )


def drawn(seed: int, n: int = 40, levels: int = 6) -> list[Measured]:
    """Points with many ties."""
    g = torch.Generator().manual_seed(seed)
    values = torch.randint(levels, (n, 3), generator=g).tolist()
    return [
        measured(i, float(d), size=float(s), bitops=float(b)) for i, (d, s, b) in enumerate(values)
    ]


def cost(p: Measured, keys: tuple[str, ...]) -> tuple[float, ...]:
    return (p.divergence, *(p.bills[k] for k in keys))


def brute_force(points: list[Measured], keys: tuple[str, ...]) -> set[tuple[float, ...]]:
    """Costs that no other cost is at most equal to everywhere."""
    costs = {cost(p, keys) for p in points}
    return {
        c
        for c in costs
        if not any(o != c and all(a <= b for a, b in zip(o, c, strict=True)) for o in costs)
    }


@pytest.mark.parametrize("keys", (KEYS, ("size",), ()))
@pytest.mark.parametrize("seed", range(8))
def test_the_front_is_that_of_brute_force(seed: int, keys: tuple[str, ...]) -> None:
    points = drawn(seed)
    found = unbeaten(points, keys)
    costs = [cost(p, keys) for p in found]
    assert brute_force(points, keys) == set(costs) and len(set(costs)) == len(costs)
    assert set(map(id, found)) <= set(map(id, points))


def test_it_is_ordered_by_divergence() -> None:
    found = [p.divergence for p in unbeaten(drawn(3, levels=30), KEYS)]
    assert found == sorted(found) and len(found) > 3


def test_the_order_of_points_changes_no_cost() -> None:
    points = drawn(1)
    a, b = unbeaten(points, KEYS), unbeaten(points[::-1], KEYS)
    assert [cost(p, KEYS) for p in a] == [cost(p, KEYS) for p in b]


def test_nothing_and_one_point() -> None:
    one = measured(1, 0.5, size=3.0)
    assert unbeaten([], KEYS) == () and unbeaten([one], ("size",)) == (one,)


def front() -> Front:
    return Front(points=unbeaten(drawn(0), KEYS), original={"size": 9.0, "bitops": 1 / 3})


def test_a_front_survives_a_file() -> None:
    assert load(json.loads(json.dumps(front().dump()))) == front()


@pytest.mark.parametrize("version", (0, 2, None))
def test_an_unknown_version_is_refused(version: object) -> None:
    with pytest.raises(ArtefactError, match="version"):
        load({**front().dump(), "version": version})


@pytest.mark.parametrize(
    "damage",
    (
        lambda d: d.pop("points"),
        lambda d: d.pop("original"),
        lambda d: d["points"][0].pop("bills"),
        lambda d: d["points"][0].update(more=1),
        lambda d: d["points"][0].update(point=3),
        lambda d: d.update(points=[3]),
        lambda d: d.update(points=None),
    ),
)
def test_damage_is_one_sentence(damage: object) -> None:
    data = json.loads(json.dumps(front().dump()))
    damage(data)  # type: ignore[operator]
    with pytest.raises(ArtefactError, match="damaged"):
        load(data)


@pytest.mark.parametrize("data", (None, [], "front"))
def test_what_is_no_front_is_refused(data: object) -> None:
    with pytest.raises(ArtefactError):
        load(data)
