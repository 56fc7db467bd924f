"""Laws of evaluation in process: the plain losses bit for bit, the work that is claimed, no more.

Faults these laws must catch: a record of another prefix; a correction kept for too long or lost;
a ghost whose values were read; a module inside a dropped block waited for; a base run of another
recovery; costs of a resumed job left out; samples run twice.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from allot.errors import ModelError
from allot.in_process import InProcess
from allot.measure import Loss
from allot.memo import Memo
from allot.options import depth, tokens
from allot.options.precision import Activation, Weight
from allot.options.width import Keep
from allot.recover import Recovery
from allot.runtimes.ideal import Ideal
from allot.space import Choice, Point, Space
from allot.trie import enumeration_cost, trie
from tests import attention, small, toys
from tests.test_prefix import in_place, twin

MATCHED = Recovery(samples=24)
NOTHING = Recovery(samples=0, matched=False)
ORDERED = Recovery(samples=24, in_order=True)
VISIONS = (
    attention.made(),
    attention.made(first=False, pool="mean"),
    attention.made(entries=1),
    attention.made(entries=2),
)
MAKES = (*toys.PLAIN, in_place, twin, *VISIONS)


def whole(k: small.Kit) -> Space:
    """Every axis that there is."""
    return k.space + depth.space(k.graph, Ideal()) + tokens.space(k.graph, Ideal())


def few(k: small.Kit, options: int = 3, **kinds: bool) -> Space:
    """Some options of layers' weights, and of tensors."""
    bits = tuple(Weight(bits=b) for b in (32, 4, 3)[:options])
    found = [Choice(site=f"{x.module}.weight", options=bits) for x in k.graph.layers]
    if kinds.get("activations"):
        sites = [s for s in k.graph.sites if s.kind == "activation" and not s.fixed]
        either = (Activation(bits=32), Activation(bits=4))
        found += [Choice(site=s.name, options=either) for s in sites]
    return Space(graph=k.graph, choices=tuple(found))


def made(
    k: small.Kit,
    space: Space | None = None,
    recovery: Recovery = MATCHED,
    memo: Memo | None = None,
    batch: int = 7,
    most_bytes: int = 2**30,
) -> InProcess:
    return InProcess(
        space=k.space if space is None else space, task=k.task, bank=k.bank, data=k.task.search,
        recovery=recovery, memo=Memo() if memo is None else memo, batch=batch,
        most_bytes=most_bytes,
    )  # fmt: skip


def near(space: Space, seed: int, n: int = 3) -> list[Point]:
    """Random points, each with neighbours of one other option, and the original."""
    found = [small.random_point(space, seed + i) for i in range(n)]
    g = torch.Generator().manual_seed(seed)
    for i in torch.randperm(len(space.counts), generator=g)[:7].tolist():
        p = found[i % n]
        found.append((*p[:i], (p[i] + 1) % space.counts[i], *p[i + 1 :]))
    return [*dict.fromkeys(found), space.original]


def plain(k: small.Kit, space: Space, point: Point, recovery: Recovery) -> Loss:
    return k.meter.loss(space.options(point), recovery=recovery)


def check(k: small.Kit, space: Space, points: list[Point], recovery: Recovery) -> None:
    for p, got in zip(points, made(k, space, recovery).losses(points), strict=True):
        assert got == plain(k, space, p, recovery), p


@pytest.mark.parametrize("make", MAKES)
def test_losses_are_the_plain_ones_on_every_axis(make: Callable[[], nn.Module]) -> None:
    k = small.kit(make)
    space = whole(k)
    for recovery in (MATCHED, NOTHING):
        check(k, space, near(space, 0), recovery)


@pytest.mark.parametrize("make", VISIONS)
def test_a_dropped_block_is_not_waited_for(make: Callable[[], nn.Module]) -> None:
    k = small.kit(make)
    space = depth.space(k.graph, Ideal()) + few(k, 2)
    last = len(space.choices) - 1
    points = [(1, *p[1:last], o) for p in near(space, 3, n=2)[:5] for o in range(2)]
    check(k, space, list(dict.fromkeys(points)), MATCHED)


@pytest.mark.parametrize("make", (toys.residual, toys.padded, toys.chain))
def test_tied_sites_and_pinned_points_are_the_plain_ones(make: Callable[[], nn.Module]) -> None:
    k = small.kit(make)
    names = [f"{x.module}.weight" for x in k.graph.layers]
    bits = tuple(Weight(bits=b) for b in (4, 3, 2))
    groups = [s.name for s in k.graph.sites if s.kind == "channels" and not s.fixed]
    space = Space(
        graph=k.graph,
        choices=(
            Choice(site=names[2], tied=(names[0],), options=bits),
            Choice(site=names[1], tied=tuple(names[3:]), options=bits[:2]),
            Choice(
                site=groups[-1], tied=tuple(groups[:-1]), options=(Keep(ratio=1), Keep(ratio=0.5))
            ),
        ),
    )
    for recovery in (MATCHED, NOTHING):
        check(k, space, near(space, 1), recovery)


@pytest.mark.parametrize("batch", (1, 6, 20))
def test_order_and_partition_of_a_batch_change_no_loss(batch: int) -> None:
    k = small.kit(toys.residual)
    space = few(k)
    points = near(space, 7)
    want = dict(zip(points, made(k, space, batch=batch).losses(points), strict=True))
    turned, parts = made(k, space, batch=batch), made(k, space, batch=batch)
    got = dict(zip(points[::-1], turned.losses(points[::-1]), strict=True))
    apart = {p: loss for i in range(3) for p, loss in _losses(parts, points[i::3])}
    assert got == want and apart == want


def _losses(e: InProcess, points: list[Point]) -> list[tuple[Point, Loss]]:
    return list(zip(points, e.losses(points), strict=True))


@pytest.mark.parametrize("make", (toys.residual, in_place))
def test_memory_may_be_short_and_losses_stay(make: Callable[[], nn.Module]) -> None:
    k = small.kit(make)
    points, space = near(few(k), 11), few(k)
    want = made(k, space).losses(points)
    for most in (0, 2_000, 30_000, 200_000):
        assert made(k, space, most_bytes=most).losses(points) == want


@pytest.mark.parametrize("make", (toys.chain, toys.residual, toys.padded, toys.dense, in_place))
def test_the_layers_that_run_are_those_that_costs_claim(make: Callable[[], nn.Module]) -> None:
    k = small.kit(make)
    space = few(k, activations=True)
    macs = sum(x.macs for x in k.graph.layers) * len(k.task.search)
    points = near(space, 2)
    for recovery, share in ((MATCHED, 1.0), (MATCHED, 0.5), (NOTHING, 1.0)):
        e = made(k, space, recovery)
        e.losses([space.original], share=share)  # what all points start from is run here
        claimed = sum(e.costs(points, share=share))
        with FlopCounterMode(display=False) as counter:
            e.losses(points, share=share)
        assert counter.get_total_flops() / (2 * macs) == pytest.approx(claimed, rel=1e-9)


def test_a_full_enumeration_costs_the_formula_and_runs_it() -> None:
    k = small.kit(toys.separable)
    space = few(k)
    e = made(k, space, NOTHING)
    points = [tuple(p) for p in torch.cartesian_prod(*map(torch.arange, space.counts)).tolist()]
    with FlopCounterMode(display=False) as counter:
        e.losses([space.original])
        once = counter.get_total_flops()
        e.losses(points)
    macs = sum(x.macs for x in k.graph.layers) * len(k.task.search)
    run = (counter.get_total_flops() - once) / (2 * macs)
    cost = enumeration_cost(trie(space), space.counts)
    assert e.spent == pytest.approx(cost) and 1 + run == pytest.approx(cost)


@pytest.mark.parametrize("recovery", (MATCHED, NOTHING, ORDERED))
def test_spent_is_the_original_the_charges_and_the_costs(recovery: Recovery) -> None:
    k = small.kit()
    e = made(k, recovery=recovery)
    points = near(k.space, 5)
    assert e.spent == 1
    claimed = e.costs(points[:6])
    e.losses(points[:6])
    e.charge(2.5)
    later = e.costs(points)
    assert later[:6] == [0.0] * 6 and min(later[6:-1]) > 0
    e.losses(points)
    assert e.spent == pytest.approx(1 + 2.5 + sum(claimed) + sum(later))
    assert set(e.costs(points)) == {0.0}


@pytest.mark.parametrize("recovery", (MATCHED, ORDERED))
@pytest.mark.parametrize("share", (0.1, 0.35, 0.7))
def test_a_share_and_then_the_rest_is_the_whole(recovery: Recovery, share: float) -> None:
    k = small.kit(toys.chain)
    points = near(k.space, 4, n=2)[:6]
    want, e = made(k, recovery=recovery).losses(points), made(k, recovery=recovery)
    n = math.ceil(share * 20)
    for p, first, loss in zip(points, e.losses(points, share=share), want, strict=True):
        assert len(first.divergences) == len(first.scores) == n, p
        assert first.divergences == pytest.approx(loss.divergences[:n], abs=1e-6)
    got = e.losses(points)
    for a, b in zip(got, want, strict=True):
        assert a.divergences == pytest.approx(b.divergences, abs=1e-6) and a.scores == b.scores
    assert [len(x.divergences) for x in e.losses(points, share=share)] == [n] * len(points)


def test_losses_in_order_are_the_plain_ones() -> None:
    k = small.kit()
    check(k, k.space, near(k.space, 9)[:6], ORDERED)


@pytest.mark.parametrize("cut", (0, 40))
def test_a_resumed_job_has_the_same_losses_and_the_same_spent(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "memo"

    def job() -> tuple[list[Loss], list[Loss], float]:
        k = small.kit(toys.padded)
        e = made(k, few(k), memo=Memo(path))
        points = near(few(k), 6)
        return e.losses(points[:4], share=0.4), e.losses(points), e.spent

    fresh = job()
    path.write_bytes(path.read_bytes()[: len(path.read_bytes()) - cut])
    assert job() == fresh and job() == fresh


def test_nothing_is_run_for_what_the_memo_holds() -> None:
    k, memo = small.kit(), Memo()
    points = near(k.space, 8)
    made(k, memo=memo).losses(points)
    again = made(k, memo=memo)
    with FlopCounterMode(display=False) as counter:
        again.losses(points)
    assert counter.get_total_flops() == 0 and again.spent > 1


def test_two_spaces_or_recoveries_do_not_share_what_the_memo_holds() -> None:
    k, memo = small.kit(), Memo()
    turned = replace(k.space, choices=k.space.choices[::-1])
    point = small.random_point(k.space, 1)
    e, other = made(k, memo=memo), made(k, turned, memo=memo)
    assert e.losses([point]) == other.losses([point[::-1]])
    assert e.losses([point]) != made(k, recovery=NOTHING, memo=memo).losses([point])


def test_no_trace_is_left_in_the_bank() -> None:
    k = small.kit(toys.residual)
    before, state = small.identities(k.bank.skeleton), small.state(k.bank.skeleton)
    made(k).losses(near(k.space, 3))
    assert small.identities(k.bank.skeleton) == before and small.hooks(k.bank.skeleton) == 0
    assert small.same_state(state, small.state(k.bank.skeleton))


def test_a_module_that_puts_out_nan_is_named_and_what_was_measured_stays() -> None:
    k, memo = small.kit(toys.residual), Memo()
    space = few(k, activations=True)
    last = space.position("layer2.1.conv1.weight")
    bad = tuple(int(i == last) for i in range(len(space.choices)))
    option = space.choices[last].options[1]
    standin = k.bank.standins({"layer2.1.conv1.weight": option})["layer2.1.conv1"]
    with torch.no_grad():
        standin.get_parameter("inner.weight")[0, 0, 0, 0] = torch.nan
    e = made(k, space, NOTHING, memo)
    good = tuple(int(i == 0) for i in range(len(space.choices)))
    loss = e.losses([good])
    before = small.identities(k.bank.skeleton)
    with pytest.raises(ModelError, match=r"'layer2\.1\.conv1' .*layer2\.1\.conv1\.weight W4"):
        e.losses([bad])
    assert small.identities(k.bank.skeleton) == before
    assert e.losses([good]) == loss and e.costs([bad])[0] > 0
