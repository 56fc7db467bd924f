"""Laws of the search: near the true front for few passes, within limits, the same for a seed.

Faults these laws must catch: a plan over its budget by a byte; a level that no plan can meet
ending the search; passes spent beyond what was allowed; improvement counted at levels that a plan
does not fit; a large space searched otherwise than a small one.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from allot import search as searching
from allot.harm.fisher import fisher
from allot.in_process import InProcess
from allot.measure import Loss
from allot.memo import Memo
from allot.pool import Optima
from allot.recover import LIGHT
from allot.scene import Scene
from allot.search import Effort, Search, against, restrictions, search
from allot.space import Space
from allot.table import Table, Term
from allot.trials import Spent, Trials
from tests import small, synthetic

LONG = Effort(rounds=200, tolerance=1e-7)


def searched(trials: Trials, harm: list[Table], effort: Effort = LONG, seed: int = 0) -> Trials:
    try:
        search(trials, harm=harm, seed=seed, effort=effort)
    except Spent:
        pass
    return trials


def excess(trials: Trials, truth: synthetic.Truth) -> float:
    """Geometric mean over levels of divergence found / least."""
    logs = []
    for limits in trials.levels:
        found = trials.best(limits)
        assert found is not None
        logs.append(math.log(found.divergence / truth.best(trials.bills, limits)[1]))
    return math.exp(np.mean(logs))


@pytest.mark.parametrize("third", (0.1, 0.3))
@pytest.mark.parametrize("seed", range(3))
def test_few_passes_reach_the_front_found_by_looking_at_everything(seed: int, third: float) -> None:
    truth = synthetic.truth((3,) * 7, seed=seed, third=third)
    trials = synthetic.trials(truth, evaluations=64, count=12)
    searched(trials, [truth.fisher(), truth.alone()])
    assert trials.evaluator.spent <= 64
    assert 1 <= excess(trials, truth) < 1.02


@pytest.mark.parametrize("seed", range(2))
def test_options_that_ruin_the_output_do_not_lead_it_astray(seed: int) -> None:
    truth = synthetic.truth((3,) * 6, seed=seed, third=0.2, destructive=(1, 4))
    trials = searched(synthetic.trials(truth, evaluations=80, count=12), [truth.fisher()])
    assert excess(trials, truth) < 1.05


@pytest.mark.parametrize("products", (False, True))
def test_a_space_too_large_to_look_at_is_searched_as_well(products: bool) -> None:
    truth = synthetic.truth((3,) * 6, seed=3, third=0.2)
    trials = synthetic.trials(truth, evaluations=60, products=products, count=8)
    loop = Search(trials, harm=[truth.fisher()], seed=0, effort=LONG)
    loop.pool = Optima(trials, loop.model, draws=1, nodes=60, seed=0)
    try:
        loop.run()
    except Spent:
        pass
    assert excess(trials, truth) < 1.05


def test_every_plan_is_within_some_level_and_none_is_paid_twice() -> None:
    truth = synthetic.truth((3,) * 6, seed=1, third=0.3)
    trials = searched(synthetic.trials(truth, evaluations=50), [truth.fisher()])
    assert len(trials.trace) == len(trials.plans) == len({p for _, p in trials.trace})
    assert all(any(trials.fits(p, lv) for lv in trials.levels) for p in trials.plans)
    spent = [f for f, _ in trials.trace]
    assert spent == sorted(spent) and spent[-1] <= 50


def test_more_passes_never_make_the_front_worse() -> None:
    truth = synthetic.truth((3,) * 6, seed=2, third=0.4)
    found = [
        excess(searched(synthetic.trials(truth, evaluations=f), [truth.alone()]), truth)
        for f in (20, 40, 80)
    ]
    assert found == sorted(found, reverse=True)


def test_the_same_seed_measures_the_same_plans() -> None:
    truth = synthetic.truth((3,) * 6, seed=4, third=0.3)
    first, again = (
        searched(synthetic.trials(truth, evaluations=40), [truth.fisher()]) for _ in range(2)
    )
    assert first.trace == again.trace


def test_it_ends_by_itself_where_nothing_more_is_expected() -> None:
    truth = synthetic.truth((3,) * 5, seed=0, coupling=0.0)
    trials = searched(synthetic.trials(truth), [truth.alone()], Effort(rounds=500))
    assert len(trials.plans) < 0.5 * 3**5
    assert excess(trials, truth) < 1.01


def test_budgets_that_pull_apart_leave_the_levels_that_can_be_met() -> None:
    truth = synthetic.truth((3,) * 4, seed=0)
    trials = synthetic.trials(truth, evaluations=30)
    rises = tuple(Term(at=(i,), values=np.array([1.0, 2.0, 3.0])) for i in range(4))
    trials.bills = {**trials.bills, "steps": Table(unit="byte", origin="toy", terms=rises)}
    least = trials.least()
    impossible = {"size": least["size"], "steps": least["steps"]}
    trials.levels = [{"size": trials.levels[0]["size"], "steps": 8.0}, impossible]
    searched(trials, [truth.alone()])
    assert trials.best(trials.levels[0]) is not None and trials.best(impossible) is None


def test_improvement_is_the_expected_fall_below_the_goal() -> None:
    g = np.random.default_rng(0)
    mean, spread, goal = g.normal(size=3), g.uniform(0.2, 1, size=3), g.normal(size=4)
    found = searching._improvement(goal, mean, spread)
    draws = mean[:, None, None] + spread[:, None, None] * g.normal(size=(3, 1, 200_000))
    expected = np.maximum(0, goal[None, :, None] - draws).mean(2)
    np.testing.assert_allclose(found, expected, atol=0.01)


def test_plans_screened_out_are_worse_and_cost_less() -> None:
    truth = synthetic.truth((3,) * 7, seed=2, third=0.3, samples=96)
    trials = synthetic.trials(truth, evaluations=60, count=12)
    loop = Search(trials, harm=[truth.alone()], seed=0, effort=replace(LONG, share=0.25, batch=6))
    try:
        loop.run()
    except Spent:
        pass
    assert loop.screened and not set(loop.screened) & set(trials.plans)
    assert trials.evaluator.spent <= 60 and excess(trials, truth) < 1.05
    means = dict(zip(truth.points, truth.means, strict=True))
    worse = [
        all(means[p] > best.divergence for v in trials.levels if trials.fits(p, v)
            for best in [trials.best(v)] if best is not None)
        for p in loop.screened
    ]  # fmt: skip
    assert np.mean(worse) > 0.8


def test_a_plan_is_as_far_from_its_rival_as_the_same_samples_say() -> None:
    g = np.random.default_rng(1)
    rival = g.exponential(size=4000)
    plan = 1.3 * rival * np.exp(0.05 * g.normal(size=4000))
    few = Loss(divergences=tuple(plan[:500]), scores=())
    whole = Loss(divergences=tuple(rival), scores=())
    gap, error, log = against(few, whole, float(rival.mean()))
    assert abs(gap - np.log(plan.mean() / rival.mean())) < 4 * error < 0.05
    assert abs(log - np.log(plan.mean())) < 4 * error
    same = Loss(divergences=tuple(rival[:500]), scores=())
    assert against(same, whole, 1.0)[0] == 0


def test_single_axes_are_tried_near_a_limit_and_one_axis_needs_no_restriction() -> None:
    k = small.kit()
    assert restrictions(Space(graph=k.graph, choices=k.space.choices[:4])) == []
    for fixed in restrictions(k.space):
        assert 0 < len(fixed) < len(k.space.choices)


def real(k: small.Kit, share: float) -> Trials:
    """Trials over a real small network: every weight and tensor to choose, sizes to a share."""
    from allot import bill

    evaluator = InProcess(
        space=k.space, task=k.task, bank=k.bank, data=k.task.search, recovery=LIGHT, memo=Memo(),
        batch=7,
    )  # fmt: skip
    bills = {"size": bill.size(k.space, header=64)}
    whole = float(k.graph.folded_bytes)
    levels = [{"size": whole * s} for s in (0.5, 0.3, share)]
    return Trials(evaluator=evaluator, bills=bills, originals={"size": whole}, levels=levels)


def test_on_a_real_network_limits_hold_to_the_byte_and_plans_are_as_measured() -> None:
    k = small.kit()
    trials = real(k, 0.2)
    scene = Scene(
        space=k.space, task=k.task, bank=k.bank, data=k.task.search, evaluator=trials.evaluator
    )
    searched(trials, [fisher(scene)], Effort(levels=3, rounds=1, batch=3))
    assert all(trials.best(limits) is not None for limits in trials.levels)
    for p, m in itertools.islice(trials.plans.items(), 4):
        loss = k.meter.loss(k.space.options(p), recovery=LIGHT)
        assert m.divergence == pytest.approx(loss.divergence, rel=1e-5)
        assert m.bills == {n: b.of(p) for n, b in trials.bills.items()}
        assert m.labels == {n: o.label for n, o in k.space.options(p).items()}
    front = trials.front()
    assert [p.divergence for p in front.points] == sorted(p.divergence for p in front.points)


def test_pins_hold_in_every_plan() -> None:
    k = small.kit()
    space = k.space.exclude("re:^head").pin("conv1.weight", "W6")
    trials = real(replace(k, space=space), 0.4)
    table = Table(
        unit="nat",
        origin="by hand",
        terms=tuple(Term(at=(i,), values=0.01 * np.arange(n)) for i, n in enumerate(space.counts)),
    )
    searched(trials, [table], Effort(levels=3, rounds=1, batch=2))
    for m in trials.plans.values():
        assert m.labels["conv1.weight"] == "W6"
        assert m.labels["head.weight"] == m.labels["head.input"] == "float"
    assert len(trials.plans) >= 3
