"""Laws of the replay and of the truth: as the evaluator that measures, and as brute force."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from allot import bill
from allot.errors import InputError
from allot.in_process import InProcess
from allot.memo import Memo
from allot.num.rounding import Rounding
from allot.options.width import Keep
from allot.runtimes.ideal import Ideal
from allot.site import Graph
from allot.space import Choice, Point, Space
from allot.trials import Spent, Trials
from benchmarks.search.choices import activations, weights
from benchmarks.search.enumerate import Case, current, enumerated
from benchmarks.search.replay import Replay
from benchmarks.search.spaces import VARIANTS, Family
from benchmarks.search.store import Enumeration, divergences, write
from benchmarks.search.truth import BUDGETS, Truth, front, known, truth
from tests import small
from tests.search.test_store import stored

# relative error of a stored divergence
CLOSE = 4e-4


def build(graph: Graph, rounding: Rounding) -> Space:
    """Weights, a tensor and a width of the chain: 3 x 2 x 2 x 3 points, none of them float."""
    choices = (
        weights(["conv1"], (4, 3, 2), rounding),
        Choice(site="conv1.channels", options=(Keep(ratio=1.0), Keep(ratio=0.5))),
        activations(["conv2"], (8, 4)),
        weights(["conv2", "head"], (8, 4, 2), rounding),
    )
    return Space(graph=graph, choices=choices)


FAMILY = Family(name="toy", networks=("chain",), bill="bitops", build=build)


def kit() -> small.Kit:
    return small.kit(calibrate=70, search=20, certify=16)


def made(k: small.Kit, variant: int = 0) -> Enumeration:
    case = Case(family=FAMILY, network="chain", variant=VARIANTS[variant])
    return enumerated(case, k.task, k.graph)


def in_process(k: small.Kit, e: Enumeration, variant: int = 0) -> InProcess:
    return InProcess(
        space=e.space,
        task=k.task,
        bank=k.bank,
        data=k.task.search,
        recovery=VARIANTS[variant].recovery,
        memo=Memo(),
    )


@pytest.mark.parametrize("variant", [0, 1])
def test_a_replay_says_and_costs_what_measuring_does(variant: int) -> None:
    k = kit()
    e = made(k, variant)
    both = (Replay(e), in_process(k, e, variant))
    points = [e.point(i) for i in np.random.default_rng(0).permutation(len(e.costs))]
    steps: list[tuple[Sequence[Point], float]] = [
        (points[:5], 0.3), (points[:9], 1.0), (points[3:14], 0.55), (points[10:20] * 2, 1.0),
        ([e.space.original], 1.0),
    ]  # fmt: skip
    for some, share in steps:
        costs = [v.costs(some, share=share) for v in both]
        assert costs[0] == costs[1]
        losses = [v.losses(some, share=share) for v in both]
        for stored_loss, loss in zip(*losses, strict=True):
            assert np.allclose(loss.divergences, stored_loss.divergences, rtol=CLOSE, atol=1e-12)
            assert np.allclose(loss.scores, stored_loss.scores)
        assert both[0].spent == both[1].spent
    assert both[0].recovery == both[1].recovery
    assert both[0].samples == both[1].samples


def test_held_out_losses_are_those_of_the_plan_on_the_certify_set() -> None:
    k = kit()
    e = made(k)
    measuring = replace(k.task, search=k.task.certify)
    evaluator = InProcess(
        space=e.space, task=measuring, bank=k.bank, data=k.task.certify,
        recovery=VARIANTS[0].recovery, memo=Memo(),
    )  # fmt: skip
    some = [e.point(i) for i in range(0, len(e.costs), 5)]
    for p, loss in zip(some, evaluator.losses(some), strict=True):
        found = divergences(e.held_out.codes[e.index(p)])
        assert np.allclose(loss.divergences, found, rtol=CLOSE, atol=1e-12)


def test_costs_are_those_of_the_bill() -> None:
    e = made(kit())
    table = bill.bitops(e.space, Ideal())
    assert [table.of(e.point(i)) for i in range(len(e.costs))] == e.costs.tolist()


def test_a_stored_case_is_made_again_when_its_space_or_samples_changed(tmp_path: Path) -> None:
    k, path = kit(), tmp_path / "x.npz"
    case = Case(family=FAMILY, network="chain", variant=VARIANTS[0])
    assert not current(path, case, k.task, k.graph)
    write(made(k), path)
    assert current(path, case, k.task, k.graph)
    other = replace(k.task, search=k.task.search.subset(slice(0, 10)))
    assert not current(path, case, other, k.graph)
    assert not current(path, replace(case, variant=VARIANTS[1]), k.task, k.graph)
    with torch.no_grad():
        next(k.task.model.parameters()).mul_(1.01)
    assert not current(path, case, k.task, k.graph)


def trials(e: Enumeration, levels: list[dict[str, float]], evaluations: float) -> Trials:
    table = FAMILY.cost(e.space)
    return Trials(
        evaluator=Replay(e),
        bills={e.bill: table},
        originals={e.bill: table.of(e.space.original)},
        levels=levels,
        evaluations=evaluations,
    )


def test_trials_on_a_replay_spend_what_they_may_and_find_what_is_there() -> None:
    e = made(kit())
    t = truth(e)
    run = trials(e, t.levels, 6)
    every = [e.point(i) for i in range(len(e.costs))]
    with pytest.raises(Spent):
        run.measure(every)
    assert run.evaluator.spent <= 6
    assert t.excess(run.plans) >= 1
    assert known(run.trace, 6) == list(run.plans)
    assert known(run.trace, 0.5) == []
    whole = trials(e, t.levels, 1e9)
    whole.measure(every)
    assert t.excess(whole.plans) == pytest.approx(1, abs=1e-12)
    for limits, best in zip(t.levels, t.optimal, strict=True):
        found = whole.best(limits)
        assert found is not None
        assert found.divergence == pytest.approx(best, rel=1e-9)


def random_truth(seed: int) -> Truth:
    """Costs and losses that have nothing to do with each other, all within the useful range."""
    e = stored(seed=seed)
    e.costs[0] = 3.0
    e.search.hits[:] = 1
    return truth(e)


@pytest.mark.parametrize("seed", range(20))
def test_optimal_is_the_least_of_all_points_within_every_budget(seed: int) -> None:
    t = random_truth(seed)
    e = t.enumeration
    for budget, best, optimal in zip(t.budgets, t.best, t.optimal, strict=True):
        within = [i for i in range(12) if e.costs[i] <= budget]
        assert optimal == min(e.search.means[i] for i in within)
        assert best in within


@pytest.mark.parametrize("seed", range(20))
def test_the_front_is_what_no_other_point_beats(seed: int) -> None:
    e = random_truth(seed).enumeration
    means, costs = e.search.means, e.costs
    beaten = [
        any(costs[j] <= costs[i] and means[j] <= means[i] and j != i for j in range(12))
        for i in range(12)
    ]
    assert sorted(np.flatnonzero(~np.array(beaten))) == sorted(front(e))


@pytest.mark.parametrize("seed", range(20))
def test_excess_is_one_for_the_optimum_falls_with_more_points_and_never_below(seed: int) -> None:
    t = random_truth(seed)
    e = t.enumeration
    optimum = [e.point(int(i)) for i in set(t.best)]
    assert t.excess(optimum) == pytest.approx(1, abs=1e-12)
    assert t.excess(optimum, held_out=True) == pytest.approx(1, abs=1e-12)
    assert t.hypervolume([e.point(int(i)) for i in front(e)]) == pytest.approx(1, abs=1e-12)
    points = [e.point(int(i)) for i in np.random.default_rng(seed).permutation(12)]
    excess = [t.excess(points[:n]) for n in range(13)]
    area = [t.hypervolume(points[:n]) for n in range(13)]
    assert all(a >= b for a, b in pairwise(excess))
    assert all(a <= b + 1e-12 for a, b in pairwise(area))
    assert excess[-1] == pytest.approx(1, abs=1e-12)
    assert (area[0], area[-1]) == (0, pytest.approx(1, abs=1e-12))
    worst = float(e.search.means.max())
    assert excess[0] == pytest.approx(np.exp(np.mean(np.log(worst / t.optimal))))


def test_budgets_lie_evenly_inside_the_useful_range_loose_to_tight() -> None:
    t = random_truth(3)
    assert len(t.budgets) == BUDGETS
    assert t.most == t.enumeration.costs[0]
    steps = np.diff(np.log([t.most, *t.budgets, t.least]))
    assert np.allclose(steps[0], steps)
    assert steps[0] < 0


def test_the_useful_range_begins_where_the_front_loses_ten_points() -> None:
    e = stored(seed=1)
    e.costs[0] = 3.0
    order = front(e)
    e.search.hits[:], e.search.original[:] = 0, 1
    e.search.hits[order[2:]] = 1
    assert truth(e).least == e.costs[order[2:]].min()


def test_where_no_plan_keeps_the_metric_a_nat_is_the_bound_and_then_it_is_refused() -> None:
    e = stored(seed=1)
    e.costs[0] = 3.0
    e.search.hits[:], e.search.original[:] = 0, 1
    few = e.search.means <= 1
    assert few.any()
    order = front(e)
    assert truth(e).least == e.costs[order[few[order]]].min()
    e.search.codes[:] = 65535
    bad = replace(e, search=replace(e.search))
    with pytest.raises(InputError, match="no useful range"):
        truth(bad)


def test_measuring_leaves_the_network_as_it_was() -> None:
    k = kit()
    before = small.state(k.task.model)
    made(k)
    assert small.same_state(before, small.state(k.task.model))
    with torch.no_grad():
        assert small.hooks(k.task.model) == 0
