"""Laws of the search over time: budgets hold, exact solvers are exact, the same seed repeats."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from allot.errors import BudgetError, InputError
from allot.samplers.step_bill import StepBill, step_bill
from allot.searchers.anneal import anneal
from allot.searchers.corrected import corrected, kinds
from allot.searchers.ground import Ground
from allot.searchers.over_time import SETS, SINGLE, Pace, Search, allowed, over_time
from allot.searchers.stretch_arcs import StretchArcs
from allot.solve.path import path
from allot.space import Point
from allot.trials import Spent
from tests.searchers.tiny_scene import bitops, harm, rolled, space, trials

PACE = Pace(rounds=1, moves=200)


def weights() -> list[int]:
    return [i for i, c in enumerate(space().choices) if c.options[0].kind == "weight"]


def quick_bill() -> StepBill:
    return step_bill(
        bitops(), counts=space().counts, steps=harm().steps, weights=weights(), point=harm().mild
    )


def points(n: int, *, seed: int = 0) -> list[Point]:
    """Points by chance with tensors as in the mild one."""
    g = np.random.default_rng(seed)
    free = {*weights(), *harm().steps}
    return [
        tuple(
            int(g.integers(k)) if i in free else m
            for i, (k, m) in enumerate(zip(space().counts, harm().mild, strict=True))
        )
        for _ in range(n)
    ]


def test_the_quick_bill_is_the_bill() -> None:
    for p in points(20):
        assert quick_bill().of(p) == pytest.approx(bitops().of(p), rel=1e-12)
        per = quick_bill().per_weight([p[i] for i in harm().steps])
        picked = sum(per[k, p[i]] for k, i in enumerate(weights()))
        rest = sum(quick_bill().alone[k, p[i]] for k, i in enumerate(harm().steps))
        assert picked + rest + quick_bill().constant == pytest.approx(bitops().of(p), rel=1e-12)


@pytest.mark.parametrize("share", [0.9, 0.6, 0.35])
def test_the_shortest_path_is_the_best_of_all_plans_of_steps(share: float) -> None:
    cross = 2 * harm().frechet[0] + np.diag(harm().frechet)
    options = allowed(harm(), frozenset({"drop", "reuse"}))
    w = np.array([harm().mild[i] for i in weights()])
    ways, limit = quick_bill().ways(w), share * quick_bill().of(harm().mild)
    best = math.inf
    for steps in itertools.product(*(options[i] for i in harm().steps)):
        point = list(harm().mild)
        for i, o in zip(harm().steps, steps, strict=True):
            point[i] = o
        found, unknown = harm().parts(point)
        if not unknown and quick_bill().of(point) <= limit:
            best = min(best, float(sum(cross[p] for p in found if p != 0)))
    graph = StretchArcs(harm=harm(), allowed=options)
    arcs, sets = graph.arcs(cross, ways)
    room = limit - quick_bill().fixed(w)
    if math.isinf(best):
        with pytest.raises(BudgetError):
            path(arcs, nodes=graph.nodes, limits=[room], buckets=None)
        return
    found_path = path(arcs, nodes=graph.nodes, limits=[room], buckets=None)
    assert found_path.harm == pytest.approx(best)
    chosen = dict(x for k in found_path.arcs for x in sets[k])
    assert sorted(chosen) == sorted(harm().steps)


def test_a_beginning_fits_and_was_measured() -> None:
    limit = 0.5 * quick_bill().of(harm().mild)
    ground = Ground(
        harm=harm(), bill=quick_bill(), limit=limit, allowed=allowed(harm(), SETS["all"])
    )
    for options in ([1] * len(weights()), [2] * len(weights())):
        point = ground.begin(options)
        assert point is not None and bitops().of(point) <= limit * (1 + 1e-9)
        assert harm().parts(point)[1] == 0


def test_annealing_stays_within_what_is_allowed_and_never_gets_worse() -> None:
    want = (2, 0, 1, 2, 1)

    def score(p: Point) -> float:
        return float(sum(a != b for a, b in zip(p, want, strict=True)))

    options = [[0, 1, 2]] * 4 + [[0, 2]]
    found, value = anneal((0,) * 5, score, allowed=options, order=[0, 1, 2], seed=0, moves=2000)
    assert value == 1.0 and found[:4] == want[:4] and found[4] in (0, 2)
    near, _ = anneal((0,) * 5, score, allowed=options, order=[], seed=0, within=1)
    assert sum(x != 0 for x in near) <= 1
    assert anneal(want, score, allowed=[[o] for o in want], order=[], seed=0) == (want, 0.0)


def test_nothing_measured_corrects_nothing() -> None:
    assert corrected(harm(), [], [], least=1e-9)(harm().mild) == 0.0


def test_a_correction_learns_what_all_plans_have_in_common() -> None:
    some = points(12, seed=3)
    truth = [2.5 * harm().predicted(p) for p in some]
    learned = corrected(harm(), some[:10], truth[:10], least=1e-12)
    for p in some:
        assert learned(p) == pytest.approx(math.log(2.5), abs=0.25)


def test_kinds_are_nothing_for_the_mild_plan() -> None:
    assert not kinds(harm(), harm().mild).any()


def test_every_level_gets_a_plan_within_it_and_no_axis_alone_is_better() -> None:
    t = trials(0.6, 0.3)
    over_time(t, harm=[harm()], seed=0, pace=PACE)
    search = Search.of(t, [harm()], seed=0, pace=PACE)
    for limits in t.levels:
        best = t.best(limits)
        assert best is not None and t.fits(best.point, limits)
        for name in SINGLE:
            alone = search.best(name, limits)
            if alone is not None:
                assert best.divergence <= t.plans[alone].divergence
                options = search.allowed(name)
                assert all(o in a for o, a in zip(alone, options, strict=True))


def test_what_it_measures_was_measured_in_parts() -> None:
    t = trials(0.4)
    over_time(t, harm=[harm()], seed=1, pace=PACE)
    assert all(harm().parts(p)[1] == 0 for p in t.plans)
    assert all(math.isfinite(m.predicted) for m in t.plans.values())


def test_the_same_seed_measures_the_same_plans() -> None:
    found = []
    for _ in range(2):
        t = trials(0.5)
        over_time(t, harm=[harm()], seed=4, pace=PACE)
        found.append(list(t.plans))
    assert found[0] == found[1]


def test_it_spends_no_more_than_allowed() -> None:
    t = trials(0.6, 0.4, 0.3)
    t.evaluations = rolled().spent + 2.0
    with pytest.raises(Spent):
        over_time(t, harm=[harm()], seed=0, pace=PACE)
    assert t.evaluator.spent <= t.evaluations + 1e-9


def test_bytes_may_be_limited_beside_bitops_or_alone() -> None:
    least, most = (trials().bills["size"].of([pick(o) for o in allowed(harm(), SETS["bits"])])
                   for pick in (max, min))  # fmt: skip
    t = trials(0.8)
    size = 0.5 * (least + most)
    t.levels = [{"size": size}, {**t.levels[0], "size": size}]
    over_time(t, harm=[harm()], seed=0, pace=PACE)
    for limits in t.levels:
        best = t.best(limits)
        assert best is not None and t.bills["size"].of(best.point) <= size


def test_it_needs_displacements() -> None:
    with pytest.raises(InputError, match="displacement"):
        over_time(trials(0.5), harm=[], seed=0)
