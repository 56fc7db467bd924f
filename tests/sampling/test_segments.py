"""Laws of segments: the dynamic program is the best of all ways to cut, and costs add up by hand.

Faults these laws must catch: a bound off by one; the last segment left out; a leader's own error
counted twice or dropped; a norm summed over samples in one place and averaged in another.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from allot.errors import InputError
from allot.sampling.history import Entry
from allot.sampling.segments import Costs, reuse_costs, segments


def brute(costs: Costs, count: int, least: int, most: int) -> float:
    """Least total over every way to cut."""
    steps = len(costs)
    found = np.inf
    for cuts in itertools.combinations(range(1, steps), count - 1):
        ends = [0, *cuts, steps]
        lengths = np.diff(ends)
        if lengths.min() >= least and lengths.max() <= most:
            found = min(found, total(costs, ends[:-1]))
    return found


def total(costs: Costs, starts: list[int]) -> float:
    ends = [*starts[1:], len(costs)]
    return float(sum(costs[s, e] for s, e in zip(starts, ends, strict=True)))


def table(steps: int, seed: int) -> Costs:
    g = np.random.default_rng(seed)
    return g.random((steps, steps + 1)) * np.arange(1, steps + 2)


@pytest.mark.parametrize("steps", (1, 2, 5, 8, 12))
@pytest.mark.parametrize("bounds", ((1, 12), (1, 3), (2, 5)))
def test_the_program_is_the_best_of_all_cuts(steps: int, bounds: tuple[int, int]) -> None:
    least, most = bounds
    for seed, count in itertools.product(range(3), range(1, steps + 1)):
        costs = table(steps, seed)
        best = brute(costs, count, least, most)
        if np.isinf(best):
            with pytest.raises(InputError, match=f"{steps} steps do not fall into {count}"):
                segments(costs, count=count, least=least, most=most)
            continue
        found = segments(costs, count=count, least=least, most=most)
        lengths = np.diff([*found, steps])
        assert found[0] == 0 and len(found) == count
        assert lengths.min() >= least and lengths.max() <= most
        assert total(costs, found) == pytest.approx(best)


def entries(steps: int, seed: int) -> list[Entry]:
    g = torch.Generator().manual_seed(seed)
    return [
        Entry(
            step=i,
            log_snr=float(i),
            values=[torch.randn(4, 3, 2, generator=g), torch.randn(4, 5, generator=g)],
            has=torch.ones(4, dtype=torch.bool),
        )
        for i in range(steps)
    ]


def test_costs_are_sums_of_distances_to_the_leader() -> None:
    f = entries(6, 0)
    costs = reuse_costs(f, f)

    def apart(a: Entry, b: Entry) -> float:
        values = zip(a.values, b.values, strict=True)
        return sum(float((x - y).abs().double().sum()) for x, y in values) / (4 * 11)

    for s in range(6):
        assert costs[s, s + 1] == 0
        for e in range(s + 2, 7):
            assert costs[s, e] == pytest.approx(sum(apart(f[s], f[t]) for t in range(s, e)))
    assert np.isinf(costs[3, 2])


def test_relative_costs_do_not_see_the_size_of_a_step() -> None:
    """Truth and leaders of a step scaled together cost the same where each leads itself."""
    f, q = entries(4, 0), entries(4, 1)
    scaled = [_scaled(e, 10.0**i) for i, e in enumerate(f)]
    scaled_q = [_scaled(e, 10.0**i) for i, e in enumerate(q)]
    one = reuse_costs(q, f, relative=True)
    other = reuse_costs(scaled_q, scaled, relative=True)
    for s in range(4):
        assert one[s, s + 1] == pytest.approx(other[s, s + 1], rel=1e-5)


def _scaled(e: Entry, by: float) -> Entry:
    return Entry(step=e.step, log_snr=e.log_snr, values=[v * by for v in e.values], has=e.has)


def test_leaders_of_another_network_cost_even_alone() -> None:
    f, q = entries(4, 0), entries(4, 1)
    both, cache = reuse_costs(q, f), reuse_costs(f, f)
    assert all(both[s, s + 1] > 0 for s in range(4))
    assert all(cache[s, s + 1] == 0 for s in range(4))
    assert all(both[s, e] > both[s, e - 1] for s in range(4) for e in range(s + 2, 5))
