"""Laws of policies: at their mildest they are the original, and never touch it.

Faults these laws must catch: an interval that is off by one; the user's steps or layers replaced in
place; a plan cut elsewhere than the program says; corrections fitted without the quantizer.
"""

from __future__ import annotations

import copy
import itertools

import numpy as np
import pytest
import torch

from allot.errors import InputError
from allot.samplers.planned import Planned
from allot.samplers.policies import (
    best_corrected,
    bounds,
    changed,
    every,
    gated,
    sampled,
    segmented,
)
from allot.sampling.affine import Affine
from allot.sampling.features import features
from allot.sampling.gate_training import Training
from allot.sampling.probes import ADDED, Probe
from allot.sampling.sampler import Sampler, Step
from allot.sampling.segments import reuse_costs
from allot.sampling.spans import HOLD
from allot.sampling.thresholds import share_again
from allot.sampling.triggers import Changed
from tests.sampling import nets
from tests.small import identities, same_state, state

FIRST = Probe(module="blocks.0", role=ADDED)
SPANS = (*nets.ATTENTION[:2], *nets.FEED[:2])


def again(plan: Planned) -> list[int]:
    """Steps that take something again."""
    return [s.index for s in plan.sampler.steps if isinstance(s, Step) and s.way.reuse]


def quantized(sampler: Sampler) -> Sampler:
    """The sampler with weights on a coarse grid."""
    network = copy.deepcopy(sampler.denoiser)
    with torch.no_grad():
        for p in network.parameters():
            scale = p.abs().max() / 15
            p.copy_((p / scale).round() * scale)
    return Sampler(denoiser=network, grid=sampler.grid, guidance=sampler.guidance)


def test_at_interval_one_nothing_is_taken_again() -> None:
    original = nets.blocks()
    s = nets.seeds(3, original)
    plan = every(original, spans=[nets.BLOCKS], interval=1)
    assert again(plan) == [] and plan.sampler.denoiser is original.denoiser
    assert torch.equal(nets.sample(plan.sampler, s), nets.sample(original, s))


def test_every_interval_computes_its_first_step() -> None:
    original = nets.blocks(steps=9)
    assert again(every(original, spans=SPANS, interval=3)) == [1, 2, 4, 5, 7, 8]
    assert again(every(original, spans=SPANS, interval=3, last=True)) == [1, 2, 4, 5, 7]
    with pytest.raises(InputError, match="interval of 0"):
        every(original, spans=SPANS, interval=0)


@pytest.mark.parametrize("summed", (True, False))
def test_a_probe_that_takes_nothing_again_is_the_original(summed: bool) -> None:
    original = nets.blocks()
    s = nets.seeds(4, original)
    for given in ({"threshold": 0.0}, {"share": 0.0}):
        plan = changed(original, s, span=nets.BLOCKS, probe=FIRST, summed=summed, **given)
        assert torch.equal(nets.sample(plan.sampler, s), nets.sample(original, s))
    with pytest.raises(InputError, match="either a threshold or the share"):
        changed(original, s, span=nets.BLOCKS, probe=FIRST)


def test_warm_and_last_steps_compute_and_a_curve_is_told() -> None:
    original = nets.blocks(steps=8)
    s = nets.seeds(6, original)
    plan = changed(
        original, s, span=nets.BLOCKS, probe=FIRST, share=0.3, warm=3, last=True, degree=2
    )
    assert again(plan) == [3, 4, 5, 6]
    assert set(plan.found) == {"threshold", "r2"} and plan.found["r2"] <= 1


@pytest.mark.parametrize("guidance", (None, 2.0))
def test_the_share_is_one_of_the_results_under_every_condition(guidance: float | None) -> None:
    original = nets.blocks(steps=8, guidance=guidance)
    s = nets.seeds(30, original)
    plan = changed(original, s, span=nets.BLOCKS, probe=FIRST, share=0.4)
    step = plan.sampler.steps[1]
    assert isinstance(step, Step)
    trigger = step.way.when[nets.BLOCKS]
    assert isinstance(trigger, Changed) and trigger.threshold == plan.found["threshold"]
    seen = features(original, s, probes=[FIRST])
    shares = [
        share_again(trigger, v, original.grid, steps=range(1, 8)) for v in seen.probes.values()
    ]
    assert np.mean(shares) == pytest.approx(0.4, abs=0.02)


@pytest.mark.parametrize("steps", (6, 9, 12))
@pytest.mark.parametrize("interval", (2, 3))
@pytest.mark.parametrize("coarse", (False, True))
def test_the_cut_is_the_best_of_all(steps: int, interval: int, coarse: bool) -> None:
    original = nets.levels(steps)
    s = nets.seeds(4, original)
    other = quantized(original) if coarse else None
    plan = segmented(original, s, span=nets.DEEP, interval=interval, quantized=other, correct=False)
    leaders = features(other or original, s, spans=[nets.DEEP]).spans[nets.DEEP, ""]
    costs = reuse_costs(leaders, features(original, s, spans=[nets.DEEP]).spans[nets.DEEP, ""])
    count, least, most = bounds(steps, interval)

    def total(starts: tuple[int, ...]) -> float:
        ends = (*starts[1:], steps)
        return float(sum(costs[a, b] for a, b in zip(starts, ends, strict=True)))

    def fits(starts: tuple[int, ...]) -> bool:
        lengths = np.diff((*starts, steps))
        return bool(lengths.min() >= least and lengths.max() <= most)

    cuts = [(0, *c) for c in itertools.combinations(range(1, steps), count - 1)]
    best = min(total(c) for c in cuts if fits(c))
    chosen = tuple(i for i in range(steps) if i not in again(plan))
    assert fits(chosen) and total(chosen) == pytest.approx(best)


def test_a_quantized_network_is_cut_corrected_and_left_as_it_is() -> None:
    original = nets.levels(8)
    s = nets.seeds(8, original)
    coarse = quantized(original)
    before = state(coarse), identities(coarse), state(original), identities(original)
    plans = [
        segmented(
            original, s, span=nets.DEEP, interval=2, quantized=coarse, correct=c, layers=layers
        )
        for c, layers in ((False, ()), (True, ()), (True, ("up.1.conv", "last")))
    ]
    assert before[1] == identities(coarse) and before[3] == identities(original)
    assert same_state(before[0], state(coarse)) and same_state(before[2], state(original))
    whole = nets.sample(original, s)
    errors = [float((nets.sample(p.sampler, s) - whole).square().mean()) for p in plans]
    assert errors[2] < errors[1] < errors[0]
    step = plans[1].sampler.steps[again(plans[1])[0]]
    assert isinstance(step, Step) and isinstance(step.way.reuse[nets.DEEP], Affine)
    assert {k for k in plans[2].standins if k.startswith("denoiser")} == {
        "denoiser.up.1.conv", "denoiser.last",
    }  # fmt: skip


def test_routers_become_a_fixed_plan_and_gates_do_not() -> None:
    original = nets.blocks()
    s = nets.seeds(8, original)
    for looks in (False, True):
        how = Training(iterations=30, lr=0.05, batch=8, looks=looks)
        plan = gated(original, s, spans=SPANS, training=how, share=0.5)
        ways = [x.way for x in plan.sampler.steps if isinstance(x, Step)]
        assert any(w.reuse for w in ways) and any(w.when for w in ways) == looks
        assert ways[0].reuse == {} and 0 < plan.found["share"] < 1
        if not looks:
            counted = sum(len(w.reuse) for w in ways) / (5 * len(SPANS))
            assert counted == pytest.approx(plan.found["share"])
        assert nets.sample(plan.sampler, s).isfinite().all()


def test_a_gate_that_takes_nothing_again_is_the_original() -> None:
    original = nets.blocks()
    s = nets.seeds(4, original)
    how = Training(iterations=5, batch=4)
    plan = gated(original, s, spans=SPANS, training=how, share=0.0, predictor=HOLD)
    assert torch.equal(nets.sample(plan.sampler, s), nets.sample(original, s))


def test_the_best_correction_is_told_by_samples_and_never_loses_to_none() -> None:
    original = nets.levels(8)
    s, check = nets.seeds(16, original), nets.seeds(16, original, seed=1)
    plan = every(original, spans=[nets.DEEP], interval=2).sampler
    best = best_corrected(original, plan, s, check, batch=7)
    wanted = nets.sample(original, check)
    error = float((nets.sample(best.sampler, check) - wanted).square().mean())
    assert error == pytest.approx(min(best.found.values()), rel=1e-9)
    assert best.found["none"] > error
    assert torch.allclose(sampled(original, check, batch=5), wanted, rtol=1e-12)
    assert len(best.found) == 5 and set(best.standins) <= {f"steps.{i}" for i in range(8)}
