"""Laws of the shortest path within limits: brute force agrees, limits hold, buckets cost little."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pytest

from allot.errors import BudgetError, InputError
from allot.solve.path import Arc, path


def graph(nodes: int, kinds: int, *, seed: int) -> list[Arc]:
    """Several arcs between nodes at most three apart, with harms of any sign."""
    g = np.random.default_rng(seed)
    return [
        Arc(
            start=i, end=j, harm=float(g.normal()),
            costs=tuple(float(c) for c in g.uniform(0.1, 2.0, kinds)),
        )
        for i in range(nodes) for j in range(i + 1, min(i + 4, nodes)) for _ in range(2)
    ]  # fmt: skip


def ways(arcs: Sequence[Arc], nodes: int, at: int = 0) -> Iterator[tuple[int, ...]]:
    """Every way from a node to the last."""
    if at == nodes - 1:
        yield ()
    for i, a in enumerate(arcs):
        if a.start == at:
            for rest in ways(arcs, nodes, a.end):
                yield (i, *rest)


def best(arcs: Sequence[Arc], nodes: int, limits: Sequence[float]) -> float:
    """The least harm by looking at every way; infinite for none."""
    found = np.inf
    for way in ways(arcs, nodes):
        costs = np.sum([arcs[i].costs for i in way], axis=0)
        if np.all(costs <= limits):
            found = min(found, sum(arcs[i].harm for i in way))
    return float(found)


@pytest.mark.parametrize("kinds", [1, 2])
@pytest.mark.parametrize("seed", range(8))
def test_it_finds_what_looking_at_every_way_finds(seed: int, kinds: int) -> None:
    arcs = graph(6, kinds, seed=seed)
    for share in (2.0, 3.0, 5.0):
        want = best(arcs, 6, [share] * kinds)
        if np.isinf(want):
            with pytest.raises(BudgetError, match=r"no way"):
                path(arcs, nodes=6, limits=[share] * kinds, buckets=None)
            continue
        found = path(arcs, nodes=6, limits=[share] * kinds, buckets=None)
        assert found.harm == pytest.approx(want, abs=1e-12)


@pytest.mark.parametrize("seed", range(6))
def test_what_it_says_of_a_way_is_true_of_its_arcs(seed: int) -> None:
    arcs = graph(8, 2, seed=seed)
    found = path(arcs, nodes=8, limits=[5.0, 5.0])
    taken = [arcs[i] for i in found.arcs]
    assert taken[0].start == 0 and taken[-1].end == 7
    assert all(a.end == b.start for a, b in itertools.pairwise(taken))
    assert found.harm == pytest.approx(sum(a.harm for a in taken))
    np.testing.assert_allclose(found.costs, np.sum([a.costs for a in taken], axis=0))
    assert max(found.costs) <= 5.0 + 1e-9


@pytest.mark.parametrize("seed", range(6))
def test_buckets_cost_no_more_than_as_many_as_there_are_arcs(seed: int) -> None:
    arcs, limit, buckets = graph(7, 1, seed=seed), 4.0, 40
    found = path(arcs, nodes=7, limits=[limit], buckets=buckets)
    # a way has at most six arcs
    exact = path(arcs, nodes=7, limits=[limit * (1 - 6 / buckets)], buckets=None)
    assert found.harm <= exact.harm + 1e-12
    assert found.costs[0] <= limit + 1e-9


def test_a_looser_limit_never_harms_more() -> None:
    arcs = graph(9, 1, seed=3)
    harms = [path(arcs, nodes=9, limits=[v], buckets=None).harm for v in (3.0, 4.0, 6.0, 9.0)]
    assert harms == sorted(harms, reverse=True)


def test_a_limit_that_is_met_exactly_holds() -> None:
    arcs = [Arc(start=i, end=i + 1, harm=1.0, costs=(0.1,)) for i in range(10)]
    assert len(path(arcs, nodes=11, limits=[1.0]).arcs) == 10


def test_an_arc_that_leads_back_is_refused() -> None:
    with pytest.raises(InputError, match="later node"):
        path([Arc(start=2, end=1, harm=0.0, costs=(1.0,))], nodes=3, limits=[1.0])
    with pytest.raises(InputError, match="one cost for each"):
        path([Arc(start=0, end=1, harm=0.0, costs=())], nodes=2, limits=[1.0])
