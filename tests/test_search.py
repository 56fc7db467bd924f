"""Laws of the search: limits hold exactly, corrections learn, the same seed finds the same front.

Faults these laws must catch: a plan over its budget by a byte; a correction that moves what was
right; a beaten plan on the front; a level that no plan can meet ending the search.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest

from allot import bill
from allot.front import unbeaten
from allot.harm.one_at_a_time import add_pairs, one_at_a_time
from allot.recover import LIGHT
from allot.runtimes.ideal import Ideal
from allot.search import Effort, Search, corrected, restrictions
from allot.solve.milp import solve
from allot.space import Space
from allot.table import Table, Term
from tests import small, toys

EFFORT = Effort(levels=5, rounds=1, extra=3, seconds=5.0)


def searched(
    k: small.Kit,
    limits: Mapping[str, float],
    *,
    space: Space | None = None,
    effort: Effort = EFFORT,
    pairs: bool = False,
) -> Search:
    space = space or k.space
    harm = one_at_a_time(space, k.meter)
    if pairs:
        around = tuple(min(4, n - 1) for n in space.counts)
        harm = add_pairs(harm, space, k.meter, around=around, most=6)
    bills = {"size": bill.size(space, header=64), "bitops": bill.bitops(space, Ideal())}
    macs = sum(x.macs for x in k.graph.layers)
    originals = {"size": float(k.graph.folded_bytes), "bitops": 1024.0 * macs}
    absolute = {name: share * originals[name] for name, share in limits.items()}
    return Search(
        space, k.meter, harm=harm, bills=bills, limits=absolute, originals=originals,
        recovery=LIGHT, effort=effort,
    )  # fmt: skip


LIMITS = ({}, {"size": 0.2}, {"bitops": 0.08}, {"size": 0.25, "bitops": 0.1})


@pytest.mark.parametrize("limits", LIMITS, ids=str)
def test_the_front_holds_no_plan_that_a_measured_plan_beats(limits: Mapping[str, float]) -> None:
    s = searched(small.kit(), limits)
    front = s.run()
    assert front.points == unbeaten(list(s.plans.values()), ("bitops", "size"))
    assert len(front.points) >= 4 and front.original == s.originals
    divergences = [p.divergence for p in front.points]
    assert divergences == sorted(divergences)


@pytest.mark.parametrize("limits", LIMITS[1:], ids=str)
def test_some_plan_is_within_the_limits_to_the_last_byte(limits: Mapping[str, float]) -> None:
    s = searched(small.kit(), limits, pairs=True)
    front = s.run()
    within = [p for p in front.points if all(p.bills[k] <= v for k, v in s.limits.items())]
    assert within
    for p in front.points:
        assert p.bills == {k: b.of(p.point) for k, b in s.bills.items()}


def test_the_solver_holds_its_limits_and_finds_the_best() -> None:
    s = searched(small.kit(), {"size": 0.2})
    for share in (1.0, 0.8, 0.6, 0.55):
        limits = {"size": share * s.limits["size"]}
        found = s.solve(limits)
        assert s.bills["size"].of(found.point) <= limits["size"]
        assert found.harm == pytest.approx(s.harm.of(found.point), rel=1e-9)
        # no exchange of one option is both allowed and better
        for i, n in enumerate(s.space.counts):
            for o in range(n):
                point = (*found.point[:i], o, *found.point[i + 1 :])
                if s.bills["size"].of(point) <= limits["size"]:
                    assert s.harm.of(point) >= found.harm * (1 - 0.02)


def test_a_plan_is_reported_as_it_was_measured() -> None:
    k = small.kit()
    s = searched(k, {"size": 0.2})
    for p in s.run().points:
        loss = k.meter.loss(k.options(p.point), recovery=LIGHT)
        assert (p.divergence, p.interval, p.metric) == (loss.divergence, loss.interval, loss.metric)
        assert p.labels == {n: o.label for n, o in k.options(p.point).items()}
        assert p.recovery == LIGHT.name and p.latency_from == "table"


@pytest.mark.parametrize("limits", ({}, {"size": 0.2}), ids=str)
def test_the_same_job_finds_the_same_front(limits: Mapping[str, float]) -> None:
    first, again = (searched(small.kit(), limits, pairs=True).run() for _ in range(2))
    assert first == again


def test_pins_hold_in_every_plan() -> None:
    k = small.kit()
    space = k.space.exclude("re:^head").pin("conv1.weight", "W6")
    front = searched(k, {"size": 0.5}, space=space).run()
    for p in front.points:
        assert p.labels["conv1.weight"] == "W6"
        assert p.labels["head.weight"] == p.labels["head.input"] == "float"
    assert len(front.points) > 2


def test_budgets_that_pull_apart_leave_the_levels_that_can_be_met() -> None:
    k = small.kit()
    counts = k.space.counts
    falls = _linear("byte", counts, lambda o: 10.0 - o)
    rises = _linear("bitop", counts, lambda o: 2.0 + o)
    s = Search(
        k.space, k.meter, harm=_linear("nat", counts, lambda o: 0.01 * o),
        bills={"size": falls, "bitops": rises}, limits={"size": 75.0, "bitops": 32.0},
        originals={"size": 80.0, "bitops": 48.0}, recovery=LIGHT, effort=EFFORT,
    )  # fmt: skip
    front = s.run()
    assert any(p.bills["size"] <= 75 and p.bills["bitops"] <= 32 for p in front.points)


def _linear(unit: str, counts: tuple[int, ...], value: object) -> Table:
    terms = tuple(
        Term(at=(i,), values=np.array([value(o) for o in range(n)]))  # type: ignore[operator]
        for i, n in enumerate(counts)
    )
    return Table(unit=unit, origin="by hand", terms=terms)


@pytest.mark.parametrize("counts", ((3, 3), (3, 3, 3), (4, 4, 4, 4), (2, 5, 3, 4)))
def test_the_solver_finds_what_brute_force_finds_where_the_original_does_no_harm(
    counts: tuple[int, ...],
) -> None:
    falls = _linear("byte", counts, lambda o: 10.0 - o)
    rises = _linear("bitop", counts, lambda o: 2.0 + o)
    harm = _linear("nat", counts, lambda o: 0.01 * o)
    points = list(itertools.product(*map(range, counts)))
    for steps in range(1, sum(counts) - len(counts)):
        limits = {"size": 10.0 * len(counts) - steps, "bitops": 2.0 * len(counts) + steps + 1}
        found = solve(counts, harm=harm, bills={"size": falls, "bitops": rises}, limits=limits)
        fit = [
            p for p in points if falls.of(p) <= limits["size"] and rises.of(p) <= limits["bitops"]
        ]
        assert found.point in fit
        assert found.harm == pytest.approx(min(map(harm.of, fit)), rel=2e-3)


def test_an_axis_alone_leaves_the_others_at_their_mildest() -> None:
    k = small.kit()
    labels = []
    for fixed in restrictions(k.space):
        labels.append({k.space.choices[i].options[o].label for i, o in fixed.items()})
    assert sorted(map(sorted, labels)) == [["A8", "W8"], ["keep1"]]
    assert restrictions(Space(graph=k.graph, choices=k.space.choices[:4])) == []


def truth(seed: int, counts: tuple[int, ...]) -> tuple[Table, Table]:
    """A table, and another that is off by a common factor and a factor of every option."""
    rng = np.random.default_rng(seed)
    terms = tuple(
        Term(at=(i,), values=np.concatenate([[0], np.sort(rng.exponential(size=n - 1))]))
        for i, n in enumerate(counts)
    )
    table = Table(unit="nat", origin="drawn", terms=terms)
    common = rng.lognormal(sigma=0.5)
    real = replace(
        table,
        terms=tuple(
            Term(at=t.at, values=t.values * common * rng.lognormal(sigma=0.3, size=len(t.values)))
            for t in terms
        ),
    )
    return table, real


def off(table: Table, real: Table, points: list[tuple[int, ...]]) -> float:
    """Mean relative error of what is foretold."""
    return float(np.mean([abs(table.of(p) / real.of(p) - 1) for p in points]))


def drawn(seed: int, counts: tuple[int, ...], n: int) -> list[tuple[int, ...]]:
    rng = np.random.default_rng(seed)
    return [tuple(1 + int(rng.integers(c - 1)) for c in counts) for _ in range(n)]


def test_a_corrected_table_meets_what_was_measured_and_foretells_the_rest_better() -> None:
    counts, seen, unseen = (4, 5, 3, 6, 4, 5), [], []
    for seed in range(10):
        table, real = truth(seed, counts)
        points, others = drawn(seed, counts, 12), drawn(100 + seed, counts, 30)
        new = corrected(table, points, [real.of(p) for p in points])
        assert off(new, real, points) < 0.1
        seen.append(off(new, real, points) / off(table, real, points))
        unseen.append(off(new, real, others) / off(table, real, others))
    assert max(seen) < 0.7 and float(np.mean(unseen)) < 0.6


def test_an_exact_table_is_left_as_it_is() -> None:
    table, _ = truth(0, (4, 5, 3))
    pair = Term(at=(0, 2), values=np.outer([0, 1, 2, 3], [0, 0.1, 0.2]))
    table = replace(table, terms=(*table.terms, pair), constant=0.25)
    points = drawn(0, (4, 5, 3), 8)
    new = corrected(table, [(0, 0, 0), *points], [0.25, *(table.of(p) for p in points)])
    for a, b in zip(table.terms, new.terms, strict=True):
        assert np.allclose(a.values, b.values, rtol=1e-9)


def test_a_correction_changes_no_sign_and_no_original() -> None:
    table, _ = truth(1, (4, 5))
    pair = Term(at=(0, 1), values=-0.3 * np.ones((4, 5)))
    table = replace(table, terms=(*table.terms, pair))
    points = drawn(1, (4, 5), 5)
    for factor in (1e-3, 1e3):
        new = corrected(table, points, [factor * abs(table.of(p)) + 1e-6 for p in points])
        for a, b in zip(table.terms, new.terms, strict=True):
            assert np.array_equal(np.sign(a.values), np.sign(b.values))
            assert bool(np.isfinite(b.values).all())


def test_without_a_measurement_there_is_nothing_to_correct() -> None:
    table, _ = truth(2, (3, 3))
    assert corrected(table, [], []) is table


def test_time_that_is_over_ends_the_search_with_what_there_is() -> None:
    k = small.kit(toys.separable)
    s = searched(k, {"size": 0.3})
    s.out_of_time = lambda: len(s.plans) >= 2
    front = s.run()
    assert len(s.plans) == 2 and 1 <= len(front.points) <= 2


def test_progress_never_falls_and_stays_within_one() -> None:
    s = searched(small.kit(), {"size": 0.2})
    shares: list[float] = []
    s.progress = shares.append
    s.run()
    assert shares == sorted(shares) and 0 < shares[-1] <= 1
