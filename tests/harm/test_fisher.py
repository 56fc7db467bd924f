"""Laws of the Fisher signal: for small changes it is the divergence, and every pair of it.

Faults these laws must catch: a gradient of the mean instead of every sample's own; a change seen
on changed inputs; a tied site left out; a pair of the wrong sign; channels compared at the wrong
positions; a norm counted twice; a skeleton left with hooks or gradients; draws that depend on how
data are cut; matching that makes the estimate worse.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn

from allot.bank import Bank
from allot.calibrate import calibrate, needed
from allot.errors import InputError
from allot.harm.fisher import fisher, fisher_diagonal
from allot.harm.single import only, single
from allot.measure import Meter
from allot.memo import Memo
from allot.options import depth, tokens
from allot.options.precision import Activation, Weight
from allot.recover import LIGHT
from allot.runtimes.ideal import Ideal
from allot.scene import Scene
from allot.site import Graph
from allot.space import Choice, Point, Space
from allot.table import Array, Table
from allot.task import Data, Task
from allot.trace import trace
from tests import attention, small, toys
from tests.harm import scenes
from tests.harm.laws import cut

MILD = ("float", "W8", "W6", "A8", "A6", "keep1", "keep0.875")
HARSH = ("float", "W4", "W3", "W2", "A4", "keep1", "keep0.5")
KINDS = ("weight", "activation", "channels")


def loss(s: Scene, point: Point) -> float:
    return s.evaluator.losses([point])[0].divergence


def plain(make: Callable[[], nn.Module], size: float, **changes: Any) -> Scene:
    """Small nudges of all weights, no recovery."""
    return scenes.scene(
        make, space=scenes.nudges(size), recovery=scenes.NOT_REPAIRED, search=30, **changes
    )


def vectors(table: Table) -> Array:
    assert table.vectors is not None
    return table.vectors.values


def where(space: Space) -> list[tuple[int, int]]:
    return [(i, o) for i, n in enumerate(space.counts) for o in range(1, n)]


@pytest.mark.parametrize("make", (toys.chain, toys.residual, toys.dense, toys.separable))
def test_small_changes_lose_what_it_says(make: Callable[[], nn.Module]) -> None:
    s = plain(make, 0.003)
    table = fisher(s, draws=8)
    for i, o in where(s.space):
        point = only(s.space.original, {i: o})
        assert table.of(point) == pytest.approx(loss(s, point), rel=0.05)


@pytest.mark.parametrize("make", (toys.chain, toys.dense))
def test_pairs_are_mixed_second_differences(make: Callable[[], nn.Module]) -> None:
    s = plain(make, 0.003)
    table = fisher(s, draws=8)
    written = table.with_pairs(10**6)
    alone = {(i, o): loss(s, only(s.space.original, {i: o})) for i, o in where(s.space)}
    found, want = [], []
    for a, b in combinations(alone, 2):
        if a[0] != b[0]:
            point = only(s.space.original, dict([a, b]))
            want.append(loss(s, point) - alone[a] - alone[b])
            found.append(written.of(point) - table.of(point))
    assert max(map(abs, want)) > 0.1 * max(alone.values())
    deviation = np.abs(np.array(found) - want).max()
    assert deviation < 0.05 * np.abs(want).max()


def test_the_mean_over_labels_that_could_be_drawn_is_met_by_few_draws() -> None:
    s = plain(toys.chain, 0.03)
    exact = fisher(s, draws=8)
    few = [fisher(replace(s, seed=k), draws=2) for k in range(12)]
    for i in range(len(s.space.counts)):
        got = np.mean([t.single(i, 3)[1:] for t in few], axis=0)
        assert got == pytest.approx(exact.single(i, 3)[1:], rel=0.3)


def test_columns_of_originals_are_zero_and_singles_are_half_squares() -> None:
    s = scenes.scene(toys.residual, space=lambda g, sp: cut(sp, KINDS, HARSH))
    table = fisher(s)
    assert table.constant == 0 and table.vectors is not None
    assert table.vectors.counts == s.space.counts
    for i, n in enumerate(s.space.counts):
        assert not table.vectors.of(i)[:, 0].any()
        assert table.single(i, n) == pytest.approx(table.vectors.half_squares(i))
        assert n == 1 or min(table.single(i, n)[1:]) > 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("make", (toys.chain, toys.residual, toys.dense, toys.separable))
def test_every_kind_of_option_is_told_apart(kind: str, make: Callable[[], nn.Module]) -> None:
    both = MILD + HARSH
    s = scenes.scene(make, space=lambda g, sp: cut(sp, (kind,), both), search=40)
    if len(where(s.space)) < 6:
        return
    table, truth = fisher(s, draws=4), single(s)
    got = [table.of(only(s.space.original, {i: o})) for i, o in where(s.space)]
    want = [truth.of(only(s.space.original, {i: o})) for i, o in where(s.space)]
    assert spearmanr(got, want)[0] > 0.85
    assert 0.5 < float(np.exp(np.mean(np.log(np.array(got) / want)))) < 2.5


def test_matching_brings_it_nearer_to_what_is_lost_after_recovery() -> None:
    def error(matched: bool) -> float:
        logs = []
        for make in (toys.chain, toys.dense):
            s = scenes.scene(make, space=lambda g, sp: cut(sp, KINDS, HARSH), search=40)
            table, truth = fisher(s, matched=matched), single(s)
            for i, o in where(s.space):
                point = only(s.space.original, {i: o})
                logs.append(np.log(table.of(point) / truth.of(point)))
        return float(np.sqrt(np.mean(np.square(logs))))

    assert error(True) < 0.7 * error(False)


def test_without_recovery_nothing_is_matched() -> None:
    s = scenes.scene(space=lambda g, sp: cut(sp, KINDS, HARSH), recovery=scenes.NOT_REPAIRED)
    assert np.array_equal(vectors(fisher(s)), vectors(fisher(s, matched=False)))


def test_tied_sites_are_the_sum_of_their_columns() -> None:
    apart = scenes.scene(space=lambda g, sp: cut(sp, ("weight",), HARSH))

    def tie(graph: Graph, space: Space) -> Space:
        first, *rest = cut(space, ("weight",), HARSH).choices
        names = tuple(c.site for c in rest)
        return Space(graph=graph, choices=(replace(first, tied=names),))

    together = fisher(scenes.scene(space=tie), matched=False)
    table = fisher(apart, matched=False)
    assert table.vectors is not None
    total = sum(table.vectors.of(i) for i in range(len(apart.space.counts)))
    assert vectors(together) == pytest.approx(total, rel=1e-9, abs=1e-12)


def test_a_pinned_option_has_the_same_column_as_a_free_one() -> None:
    s = scenes.scene(space=lambda g, sp: cut(sp, ("weight",), HARSH))
    table, held = fisher(s), scenes.pinned(s, conv2_weight="W3")
    again = fisher(held)
    at = s.space.position("conv2.weight")
    label = [o.label for o in s.space.choices[at].options].index("W3")
    assert table.vectors is not None and again.vectors is not None
    assert np.array_equal(again.vectors.of(at)[:, 0], table.vectors.of(at)[:, label])


def test_it_does_not_depend_on_the_batch_but_on_the_seed() -> None:
    s = scenes.scene(toys.residual, space=lambda g, sp: cut(sp, KINDS, HARSH))
    one, same = fisher(s, batch=64), fisher(s, batch=64)
    assert np.array_equal(vectors(one), vectors(same))
    for batch in (1, 7):
        other = vectors(fisher(s, batch=batch))
        assert np.abs(other - vectors(one)).max() < 1e-4 * np.abs(vectors(one)).max()
    assert not np.array_equal(vectors(fisher(replace(s, seed=1))), vectors(one))


def test_fewer_samples_are_the_first_rows() -> None:
    s = scenes.scene(space=lambda g, sp: cut(sp, KINDS, HARSH))
    whole, part = vectors(fisher(s)), vectors(fisher(s, samples=8))
    assert part.shape[0] == 16
    assert np.abs(whole[:16] - part).max() < 1e-5 * np.abs(whole).max()


def test_repairs_are_charged_from_where_they_begin() -> None:
    s = scenes.scene(space=lambda g, sp: cut(sp, ("weight",), HARSH), search=40)
    fisher(s, matched=False)
    plain = s.evaluator.spent
    fisher(s)
    repairs = (s.evaluator.spent - 2 * plain) * 40 / len(s.task.calibrate)
    # the moments, the recording, and one repair of at most a pass for every option
    assert 2 < repairs < 2 + len(where(s.space))


def test_it_costs_passes_and_replays() -> None:
    s = plain(toys.chain, 0.1)
    fisher(s, draws=3)
    # every layer is run once for each of its two nudges
    assert s.evaluator.spent == pytest.approx(1 + 2 * 3 + 2)
    before = s.evaluator.spent
    fisher(s, draws=1, samples=15)
    assert s.evaluator.spent - before == pytest.approx(0.5 * (1 + 2 + 2))


def test_it_leaves_no_trace() -> None:
    s = scenes.scene(toys.residual, space=lambda g, sp: cut(sp, KINDS, HARSH))
    before = [(small.state(m), small.identities(m)) for m in (s.task.model, s.bank.skeleton)]
    shares: list[float] = []
    fisher(s, batch=6, progress=shares.append)
    assert shares == sorted(shares) and shares[-1] == 1
    for m, (state, known) in zip((s.task.model, s.bank.skeleton), before, strict=True):
        assert small.same_state(small.state(m), state) and small.identities(m) == known
        assert small.hooks(m) == 0
        assert all(p.grad is None for p in m.parameters())
    assert not any(p.requires_grad for p in s.bank.skeleton.parameters())


def test_the_diagonal_is_the_same_without_pairs() -> None:
    s = scenes.scene(space=lambda g, sp: cut(sp, KINDS, HARSH))
    whole, diagonal = fisher(s), fisher_diagonal(s)
    assert diagonal.vectors is None and diagonal.origin != whole.origin
    for a, b in zip(whole.terms, diagonal.terms, strict=True):
        assert np.array_equal(a.values, b.values)


def test_a_divergence_of_unknown_curvature_is_refused() -> None:
    s = scenes.scene(divergence=lambda a, b: (a - b).abs().sum(1).double())
    with pytest.raises(InputError, match="a signal that only measures plans works"):
        fisher(s)


def squares(original: Tensor, output: Tensor) -> Tensor:
    return 0.01 * (output - original).double().square().sum(1)


def test_squared_differences_have_a_curvature_too() -> None:
    s = plain(toys.chain, 0.003, divergence=squares)
    table = fisher(s, draws=8)
    for i, o in where(s.space):
        point = only(s.space.original, {i: o})
        assert table.of(point) == pytest.approx(loss(s, point), rel=0.05)


def scene_of(task: Task, build: Callable[[Graph], Space], recovery: Any) -> Scene:
    graph = trace(task.model, task.forward, task.example())
    space = build(graph)
    bank = Bank(task.model, graph=graph, stats=calibrate(task, task.model, needed(space), batch=10))
    meter = Meter(task, bank, task.search, memo=Memo(), batch=10)
    evaluator = scenes.Plain(meter=meter, space=space, repair=recovery)
    return Scene(space=space, task=task, bank=bank, data=task.search, evaluator=evaluator)


def language() -> Task:
    def text(n: int, seed: int) -> Data:
        g = torch.Generator().manual_seed(seed)
        return Data(inputs=torch.randint(0, 5, (n, 6), generator=g))

    def per_place(original: Tensor, output: Tensor) -> Tensor:
        p, q = (torch.log_softmax(x.double(), 2) for x in (original, output))
        return (p.exp() * (p - q)).sum(2).mean(1)

    def no_score(output: Tensor, right: Tensor) -> Tensor:
        return output.new_zeros(len(output))

    model = attention.language()
    sets = {"calibrate": text(20, 1), "search": text(40, 2), "certify": text(10, 3)}
    return Task(name="text", model=model, divergence=per_place, score=no_score, **sets)


def test_a_language_model_is_told_by_the_mean_over_places() -> None:
    def build(graph: Graph) -> Space:
        return scenes.nudges(0.003)(graph, Space(graph=graph, choices=()))

    s = scene_of(language(), build, scenes.NOT_REPAIRED)
    table = fisher(s, draws=8)
    got = np.array([table.of(only(s.space.original, {i: o})) for i, o in where(s.space)])
    want = np.array([loss(s, only(s.space.original, {i: o})) for i, o in where(s.space)])
    assert got == pytest.approx(want, rel=0.15)
    assert float(np.mean(got / want)) == pytest.approx(1, rel=0.05)


def test_blocks_and_tokens_are_run_whole_and_meet_the_rest() -> None:
    def build(graph: Graph) -> Space:
        precise = []
        for site in graph.sites:
            if site.kind == "weight":
                precise.append(Choice(site=site.name, options=(Weight(bits=32), Weight(bits=4))))
            if site.kind == "activation" and not site.fixed:
                eights = (Activation(bits=32), Activation(bits=8))
                precise.append(Choice(site=site.name, options=eights))
        space = Space(graph=graph, choices=tuple(precise))
        return space + depth.space(graph, Ideal()) + tokens.space(graph, Ideal())

    s = scene_of(small.task(attention.vision, search=30), build, LIGHT)
    table = fisher(s)
    kinds = [s.space.graph.site(c.site).kind for c in s.space.choices]
    assert {"block", "tokens", "weight", "activation"} <= set(kinds)
    assert table.vectors is not None
    for i, o in where(s.space):
        value = table.single(i, s.space.counts[i])[o]
        if kinds[i] in ("block", "tokens"):
            assert value == pytest.approx(loss(s, only(s.space.original, {i: o})), rel=1e-4)
        assert value > 0 and table.vectors.of(i)[:, o].any()
    assert "options measured" in table.origin
