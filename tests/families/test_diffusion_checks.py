"""Plans for other steps are refused, guidance that was never calibrated is remarked on.

Faults that these tests must find: a digest that misses a field; the wrong one of two plans named;
a reuse before anything was computed let through.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from torch import nn

from allot.errors import PlanError
from allot.families.diffusion_checks import (
    check_grid,
    check_plan,
    check_ways,
    described,
    digest,
    least_steps,
    remarks,
)
from allot.options.steps import Compute, Drop
from allot.plan import Plan
from allot.sampling.grid import Grid
from allot.sampling.sampler import Dropped, Guidance, Sampler, Step, Way
from allot.sampling.spans import HOLD, Span

GRID = Grid(times=(900.0, 600.0, 300.0), signals=(0.2, 0.5, 0.8), noises=(0.98, 0.87, 0.6))
SPAN = Span(name="middle", modules=("0",))
OTHERS: dict[str, Any] = {
    "times": (901.0, 600.0, 300.0),
    "signals": (0.21, 0.5, 0.8),
    "noises": (0.98, 0.87, 0.61),
    "end_signal": 0.9,
    "end_noise": 0.1,
    "predicts": "sample",
    "order": 2,
    "last_first_order": False,
    "start": 2.0,
    "clip": 1.0,
}


def sampler() -> Sampler:
    return Sampler(denoiser=nn.Sequential(nn.Identity()), grid=GRID, spans=(SPAN,))


def test_the_digest_depends_on_every_field_of_a_grid() -> None:
    assert set(OTHERS) == {f.name for f in dataclasses.fields(Grid)}
    changed = {digest(dataclasses.replace(GRID, **{k: v})) for k, v in OTHERS.items()}
    assert len(OTHERS) == len(changed)
    assert digest(GRID) not in changed
    assert digest(GRID) == digest(dataclasses.replace(GRID))


def test_a_plan_for_another_number_of_steps_names_both() -> None:
    fewer = dataclasses.replace(
        GRID, times=GRID.times[:2], signals=GRID.signals[:2], noises=GRID.noises[:2]
    )
    with pytest.raises(PlanError, match=r"another number of steps: for 3 steps .* takes 2 steps"):
        check_grid(GRID, fewer)


def test_a_plan_for_another_scheduler_names_both() -> None:
    other = dataclasses.replace(GRID, order=2)
    said = r"another scheduler: for 3 steps of DDIM.*takes 3 steps of DPM-Solver\+\+ 2M"
    with pytest.raises(PlanError, match=said):
        check_grid(GRID, other)
    check_grid(GRID, dataclasses.replace(GRID))


def test_flows_are_described_as_such() -> None:
    assert "flow-matching Euler" in described(dataclasses.replace(GRID, predicts="flow"))


def test_a_sampler_with_fewer_steps_than_the_plan_names_is_refused() -> None:
    plan = Plan(graph="g", weights="w", options={"steps.3": Drop(), "steps.0": Compute()})
    assert 4 == least_steps(plan.options)
    with pytest.raises(PlanError, match=r"names steps\.3 and so needs at least 4 steps.*takes 3"):
        check_plan(plan, sampler())
    check_plan(dataclasses.replace(plan, options={"steps.2": Drop()}), sampler())
    assert 0 == least_steps(["denoiser.conv.weight"])


def test_a_reuse_of_what_was_never_computed_is_refused() -> None:
    s = sampler()
    check_ways(s)
    s.steps[1] = Step(index=1, way=Way(reuse={SPAN: HOLD}))
    check_ways(s)
    s.steps[0] = Dropped()
    with pytest.raises(PlanError, match="step 1 reuses middle, which no step before it computes"):
        check_ways(s)


def test_a_plan_that_takes_no_step_is_refused() -> None:
    s = sampler()
    for i in range(3):
        s.steps[i] = Dropped()
    with pytest.raises(PlanError, match="at least one"):
        check_ways(s)


def test_a_guidance_scale_that_was_never_calibrated_is_remarked_on() -> None:
    guidance = Guidance(scale=7.5, without={})
    assert () == remarks(guidance, [1.0, 7.5])
    assert () == remarks(None, [1.0])
    assert () == remarks(guidance, [])
    (said,) = remarks(guidance, [4.0, 1.0])
    assert "7.5 was never calibrated (1, 4 was)" in said
    (said,) = remarks(None, [4.0])
    assert "scale 1 was never" in said
