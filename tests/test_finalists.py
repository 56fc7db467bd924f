"""Laws of finalists: strong recovery never worsens a plan, what is timed decides on latency.

Faults these laws must catch: a plan chosen by the table's latency; a worse measurement kept; a
limit exceeded in truth; a plan above a limit strengthened while one within it is not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

import numpy as np
import pytest

from allot import bill
from allot.clock import Timed, key
from allot.finalists import best_within, finalists, fits, strengthen
from allot.front import Front, Measured
from allot.harm.fisher import fisher
from allot.in_process import InProcess
from allot.levels import levels
from allot.measure import Loss
from allot.memo import Memo
from allot.recover import LIGHT, Recovery
from allot.runtimes.accelerator_file import load
from allot.runtimes.ideal import Ideal
from allot.runtimes.openvino import OpenVino
from allot.scene import Scene
from allot.search import Effort, Search
from allot.space import Point
from allot.table import Table, Term
from allot.target import Target
from allot.trials import Trials
from tests import small

EFFORT = Effort(levels=5, rounds=1, batch=2)
STRONG = Recovery(samples=24, in_order=True)


class FakeClock:
    """Times plans by a rule; remembers what it was asked."""

    target: Target = OpenVino()

    def __init__(self, seconds: Callable[[Point], float]) -> None:
        self.seconds = seconds
        self.timed: list[str] = []

    def times(self, plans: Mapping[str, object]) -> dict[str, Timed]:
        self.timed += plans
        found = {}
        for k in plans:
            s = self.seconds(tuple(map(int, k.split("-"))))
            found[k] = Timed(median_s=s, original_s=2.0, ratio=s / 2, low=0.0, high=9.0, n=5)
        return found

    def original_s(self) -> float:
        return 2.0


def latency(k: small.Kit) -> Table:
    """Seconds that fall with every option taken."""
    terms = tuple(
        Term(at=(i,), values=np.linspace(0.2, 0.05, n)) for i, n in enumerate(k.space.counts)
    )
    return Table(unit="s", origin="by hand", terms=terms)


def searched(k: small.Kit, limits: Mapping[str, float]) -> Search:
    bills = {
        "size": bill.size(k.space, header=64),
        "bitops": bill.bitops(k.space, Ideal()),
        "latency": latency(k),
    }
    originals = {name: b.of(k.space.original) for name, b in bills.items()}
    evaluator = InProcess(
        space=k.space, task=k.task, bank=k.bank, data=k.task.search, recovery=LIGHT, memo=Memo(),
        batch=7,
    )  # fmt: skip
    trials = Trials(evaluator=evaluator, bills=bills, originals=originals, levels=())
    trials.levels = levels(5, limits=limits, least=trials.least(), originals=originals)
    scene = Scene(space=k.space, task=k.task, bank=k.bank, data=k.task.search, evaluator=evaluator)
    s = Search(trials, harm=[fisher(scene)], seed=0, effort=EFFORT)
    s.run()
    return s


def chosen(
    k: small.Kit, s: Search, clock: FakeClock, limits: Mapping[str, float]
) -> tuple[Front, Measured | None]:
    return finalists(s.trials, k.meter, clock, near=s.near, limits=limits)  # type: ignore[arg-type]


def test_strong_recovery_never_makes_a_plan_worse() -> None:
    k = small.kit()
    s = searched(k, {"size": 600.0})
    before = dict(s.trials.plans)
    strengthen(s.trials, k.meter, {"size": 600.0}, recovery=STRONG)
    assert s.trials.plans.keys() == before.keys()
    better = 0
    for point, m in s.trials.plans.items():
        old = before[point]
        assert m.divergence <= old.divergence
        if m.recovery == STRONG.name:
            assert m.divergence == k.meter.loss(k.options(point), recovery=STRONG).divergence
            better += 1
        else:
            assert m == old
        assert m.bills == old.bills
    assert better


def test_without_a_latency_limit_the_best_within_the_others_is_preferred() -> None:
    k = small.kit()
    s = searched(k, {"size": 600.0})
    clock = FakeClock(lambda p: 1.0)
    front, preferred = chosen(k, s, clock, {"size": 600.0})
    assert preferred in front.points and preferred is not None and clock.timed == []
    within = [p for p in s.trials.plans.values() if p.bills["size"] <= 600]
    assert preferred.divergence == min(p.divergence for p in within)


def test_without_limits_none_is_preferred() -> None:
    k = small.kit()
    front, preferred = chosen(k, searched(k, {}), FakeClock(lambda p: 1.0), {})
    assert preferred is None and len(front.points) >= 4


@pytest.mark.parametrize("slower", (1.0, 1.15))
def test_the_preferred_plan_meets_its_latency_as_measured(slower: float) -> None:
    k = small.kit()
    table, limits = latency(k), {"latency": 1.0}
    s = searched(k, limits)
    clock = FakeClock(lambda p: slower * table.of(p))
    front, preferred = chosen(k, s, clock, limits)
    assert preferred is not None and preferred in front.points
    assert preferred.latency_from == "measured" and key(preferred.point) in clock.timed
    assert preferred.bills["latency"] == pytest.approx(slower * table.of(preferred.point))
    assert preferred.bills["latency"] <= 1.0
    for p in front.points:
        by = slower if p.latency_from == "measured" else 1.0
        assert p.bills["latency"] == pytest.approx(by * table.of(p.point))


def test_a_latency_that_is_stated_is_not_timed() -> None:
    k = small.kit()
    s = searched(k, {"latency": 1.0})
    clock = FakeClock(lambda p: 3.0)
    clock.target = load("examples/npu.yaml")
    front, preferred = chosen(k, s, clock, {"latency": 1.0})
    assert preferred in front.points and preferred is not None and clock.timed == []
    assert preferred.bills["latency"] <= 1.0


def test_where_every_plan_is_too_slow_none_is_preferred() -> None:
    k = small.kit()
    s = searched(k, {"latency": 1.0})
    clock = FakeClock(lambda p: 3.0)
    front, preferred = chosen(k, s, clock, {"latency": 1.0})
    assert preferred is None and front.points and clock.timed


def measured(divergence: float, **bills: float) -> Measured:
    return Measured(
        point=(0,), labels={}, bills=bills, divergence=divergence, interval=(0, 1), metric=1.0,
        predicted=0.0, gap=0.0,
    )  # fmt: skip


def test_the_best_within_limits_is_that_of_least_divergence() -> None:
    points = tuple(measured(d, size=s) for d, s in ((0.3, 10.0), (0.1, 30.0), (0.2, 20.0)))
    front = Front(points=points, original={})
    assert best_within(front.points, {"size": 20.0}) is points[2]
    assert best_within(front.points, {"size": 30.0}) is points[1]
    assert (
        best_within(front.points, {"size": 9.9}) is None and best_within(front.points, {}) is None
    )


def test_a_plan_fits_at_its_limit_and_not_above() -> None:
    m = measured(0.1, size=10.0, latency=2.0)
    assert fits(m, {"size": 10.0, "latency": 2.0}) and fits(m, {})
    assert not fits(m, {"size": 10.0, "latency": 1.999})
    assert not fits(replace(m, bills={"size": 11.0, "latency": 1.0}), {"size": 10.0})


@pytest.mark.parametrize("agree", (True, False))
def test_where_recoveries_do_not_agree_more_plans_are_recovered_strongly(agree: bool) -> None:
    k = small.kit(search=40)
    s = searched(k, {"size": 600.0})
    told: list[str] = []
    ranked = sorted(s.trials.front().points, key=lambda m: m.divergence)
    seen: list[Point] = []

    class Turned:
        """Ranks plans as the search did, or the other way round."""

        def loss(self, options: object, *, recovery: Recovery) -> Loss:
            point = next(m.point for m in ranked if s.trials.space.options(m.point) == options)
            seen.append(point)
            place = [m.point for m in ranked].index(point)
            value = 1.0 + (place if agree else -place / 100)
            return Loss(divergences=(value,), scores=(1.0,))

    strengthen(s.trials, Turned(), {}, recovery=STRONG, tell=told.append)  # type: ignore[arg-type]
    few = min(5, len(ranked))
    assert seen == [m.point for m in ranked[: few if agree else min(15, len(ranked))]]
    assert len(told) == (len(ranked) >= 5)
    assert all(("more are recovered" in t) == (not agree and len(ranked) > 5) for t in told)
