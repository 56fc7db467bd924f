"""Laws of the whole-network walk: never worse where it looked, every weight one of its two values.

Faults these laws must catch: a worse result kept; a value that is neither of the two; codes of the
wrong side; scales, biases or the bank changed; another result for the same seed; a layer of another
kind left out; a unit that runs its batches on other inputs than its targets are for.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from allot import part
from allot.errors import InputError
from allot.num.formats import Format, Int
from allot.num.rounding import Nearest
from allot.option import Option
from allot.options.formatted import Formatted
from allot.options.precision import Activation, Weight
from allot.options.standins import OnGrid
from allot.reconstruct.learning import Planned
from allot.reconstruct.soft import frame
from allot.reconstruct.walk import Discrepancy, box, opened
from allot.recover import Recovery, moments
from allot.repair import repaired
from allot.sweep import unwrapped
from tests import attention, small, toys
from tests.reconstruct.grids import Uneven

QUICK = Discrepancy(steps=64, batch=12, samples=24, rate=0.08, warm=4)
ROUNDED = Recovery(samples=24, matched=False, in_order=True)
SHARED = Formatted(name="W3 shared", format=Format(grid=Int(bits=3), group=-1), rank=1)
UNEVEN = Formatted(name="uneven", format=Format(grid=Uneven()), rounding=Nearest())
KINDS: tuple[Option, ...] = (Weight(bits=3), SHARED, UNEVEN)


def quantized(k: small.Kit, weight: Option, *, tensors: int = 32) -> dict[str, Option]:
    """Every weight on the option, and every tensor in so many bits."""
    kinds = {"weight": weight, "activation": Activation(bits=tensors)}
    found = {s.name: kinds[s.kind] for s in k.graph.sites if s.kind in kinds and not s.fixed}
    return {n: o for n, o in found.items() if not o.is_original}


def walked(
    k: small.Kit,
    options: dict[str, Option],
    start: dict[str, nn.Module],
    *,
    setting: Discrepancy = QUICK,
    seed: int = 0,
) -> dict[str, nn.Module]:
    return setting.learned(planned(k, options, start, seed=seed))


def planned(
    k: small.Kit,
    options: dict[str, Option],
    start: dict[str, nn.Module],
    *,
    seed: int = 0,
    progress: Callable[[float], None] = lambda share: None,
) -> Planned:
    return Planned(
        bank=k.bank, task=k.task, options=options, standins=start, original=None, seed=seed,
        progress=progress,
    )  # fmt: skip


def rounded(k: small.Kit, options: dict[str, Option]) -> dict[str, nn.Module]:
    return repaired(k.bank, k.task, options, recovery=ROUNDED, original={})


def lost(k: small.Kit, standins: dict[str, nn.Module]) -> float:
    """Mean divergence on the calibration data."""
    data = k.task.calibrate
    first = small.forward(k.task, k.bank.skeleton, data)
    with k.bank.trial(standins) as model:
        return float(k.task.divergence(first, small.forward(k.task, model, data)).mean())


def layers(standins: dict[str, nn.Module]) -> dict[str, OnGrid]:
    return {n: x for n, m in standins.items() if isinstance(x := unwrapped(m), OnGrid)}


@pytest.mark.parametrize("weight", KINDS, ids=lambda o: o.label)
@pytest.mark.parametrize("make", (toys.chain, toys.residual))
def test_much_less_is_lost_where_it_looked_than_by_rounding_in_order(
    make: Callable[[], nn.Module], weight: Option
) -> None:
    k = small.kit(make)
    options = quantized(k, weight)
    start = rounded(k, options)
    assert lost(k, walked(k, options, start)) < 0.8 * lost(k, start)


def test_tensors_in_few_bits_are_walked_with() -> None:
    k = small.kit(toys.residual)
    options = quantized(k, Weight(bits=2), tensors=4)
    start = rounded(k, options)
    found = walked(k, options, start)
    assert lost(k, found) < lost(k, start)
    assert all(type(found[n]) is type(m) for n, m in start.items())


def test_a_walk_that_ends_worse_is_thrown_away() -> None:
    k = small.kit(attention.made(depth=1))
    options = quantized(k, Weight(bits=4))
    start = rounded(k, options)
    blind = replace(QUICK, steps=8, rounds=1, rate=1.0, strength=1e-6)
    found = walked(k, options, start, setting=blind)
    assert same(states(found), states(start))
    assert lost(k, walked(k, options, start)) <= lost(k, start)


@pytest.mark.parametrize("weight", KINDS, ids=lambda o: o.label)
def test_every_weight_is_its_code_or_the_next_towards_the_unrounded_weight(weight: Option) -> None:
    k = small.kit()
    options = quantized(k, weight)
    start = rounded(k, options)
    found = layers(walked(k, options, start))
    moved = 0
    for name, layer in layers(start).items():
        w = k.bank.unrounded(name, options).weight.detach()  # type: ignore
        old, new = layer.weight.detach(), found[name].weight.detach()
        moved += int((old != new).sum())
        grid, x = frame(layer, layer.encoded()), w.flatten(1)
        away, codes = grid.units(x), layer.encoded().codes
        step = found[name].encoded().codes - codes
        inner = (codes > grid.grid.lo) & (codes < grid.grid.hi)
        side = torch.where(away >= grid.grid.values(codes), 1, -1)
        assert bool(((step == 0) | (step == side) | ~inner).all())
        assert bool((step.abs() <= 1).all())
        assert torch.allclose(grid.rows(grid.grid.values(codes + step)), new.flatten(1), atol=1e-6)
    assert moved


def test_the_box_holds_the_codes_at_its_vertices_and_the_start_halfway_to_the_weights() -> None:
    k = small.kit()
    options = quantized(k, Weight(bits=3))
    start = rounded(k, options)
    parts = zip(*box(k.bank, options, opened(start)), layers(start).items(), strict=True)
    for b, h, end, x, (name, layer) in parts:
        codes = layer.weight.detach().flatten(1)
        w = k.bank.unrounded(name, options).weight.detach().flatten(1)  # type: ignore
        assert torch.allclose(codes, torch.where(end > 0, h, b), atol=1e-6)
        middle = (codes + w.clamp(b.minimum(h), b.maximum(h))) / 2
        assert torch.allclose(middle, b + x * (h - b), atol=1e-6)


def states(standins: dict[str, nn.Module]) -> dict[str, dict[str, Tensor]]:
    return {n: small.state(m) for n, m in standins.items()}


def same(a: dict[str, dict[str, Tensor]], b: dict[str, dict[str, Tensor]]) -> bool:
    return a.keys() == b.keys() and all(small.same_state(a[n], b[n]) for n in a)


def test_the_seed_decides_and_nothing_else_is_touched() -> None:
    k = small.kit(toys.residual)
    options = quantized(k, SHARED)
    start = rounded(k, options)
    before, whole = states(start), small.state(k.bank.skeleton)
    parts, user = small.identities(k.bank.skeleton), small.state(k.task.model)
    random = torch.get_rng_state()
    one, two, three = (states(walked(k, options, start, seed=s)) for s in (0, 0, 1))
    assert same(one, two) and not same(one, three)
    assert torch.equal(random, torch.get_rng_state()) and same(before, states(start))
    assert small.same_state(whole, small.state(k.bank.skeleton))
    assert small.same_state(user, small.state(k.task.model))
    assert parts == small.identities(k.bank.skeleton)
    for name, old in before.items():
        for key, value in old.items():
            assert key.endswith("weight") or torch.equal(value, one[name][key]), (name, key)


def test_what_is_found_has_no_gradient_and_computes_the_same_each_time() -> None:
    k = small.kit()
    options = quantized(k, Weight(bits=3))
    found = walked(k, options, rounded(k, options))
    assert not any(p.requires_grad for m in found.values() for p in m.parameters())
    assert lost(k, found) == lost(k, found)


def test_it_is_the_last_step_of_a_recovery_with_matched_statistics() -> None:
    k = small.kit(toys.residual)
    options = quantized(k, Weight(bits=2))
    goal = moments(k.task, k.bank.skeleton, k.graph, samples=24)
    matched = replace(ROUNDED, matched=True)
    without = repaired(k.bank, k.task, options, recovery=matched, original=goal)
    learning = replace(matched, learning=QUICK)
    found = repaired(k.bank, k.task, options, recovery=learning, original=goal)
    assert lost(k, found) < lost(k, without)


def test_without_a_layer_on_a_grid_nothing_is_done_and_progress_rises_to_1() -> None:
    k = small.kit()
    assert walked(k, {}, {}) == {}
    options = quantized(k, Weight(bits=4))
    done: list[float] = []
    # neither rounds divide steps nor batches samples
    start = planned(k, options, k.bank.standins(options), progress=done.append)
    replace(QUICK, steps=10, batch=7).learned(start)
    assert done == sorted(done) and done[-1] == 1


def test_a_setting_survives_a_file_and_one_that_cannot_be_is_refused() -> None:
    assert part.load(json.loads(json.dumps(QUICK.dump()))) == QUICK
    for wrong in ({"steps": 0}, {"batch": 0}, {"rate": 0.0}, {"strength": -1.0}, {"clip": 0.0}):
        with pytest.raises(InputError):
            Discrepancy(**wrong)  # type: ignore[arg-type]
