"""Checks: whether a plan fits a sampler's steps, and what is doubtful about a guidance."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence

from allot.errors import PlanError
from allot.plan import Plan
from allot.sampling.grid import FLOW, Grid
from allot.sampling.sampler import Guidance, Sampler, Step

_STEP = "steps."


def digest(grid: Grid) -> str:
    """Names a grid; of two grids it differs where a level or the rule between them does."""
    return hashlib.sha256(json.dumps(grid.dump(), sort_keys=True).encode()).hexdigest()[:16]


def described(grid: Grid) -> str:
    """A grid in words: how many steps of which kind of scheduler."""
    name = "DDIM or Euler" if grid.order == 1 else "DPM-Solver++ 2M"
    if grid.predicts == FLOW:
        name = "flow-matching Euler" if grid.order == 1 else f"flow-matching {name}"
    return (
        f"{len(grid)} steps of {name} ({grid.predicts}, times {grid.times[0]:g} to "
        f"{grid.times[-1]:g}, grid {digest(grid)})"
    )


def check_grid(made_for: Grid, taken: Grid) -> None:
    """Raises PlanError, naming both, where a plan was made for other steps or another scheduler."""
    if digest(made_for) != digest(taken):
        other = "another number of steps" if len(made_for) != len(taken) else "another scheduler"
        raise PlanError(
            f"the plan was made for {other}: for {described(made_for)}, and this sampler takes "
            f"{described(taken)}; load it with the plan's steps and scheduler or search again"
        )


def least_steps(sites: Iterable[str]) -> int:
    """How many steps a sampler must have to hold a plan that names these sites."""
    named = [s.removeprefix(_STEP) for s in sites if s.startswith(_STEP)]
    return 1 + max((int(s) for s in named if s.isdecimal()), default=-1)


def check_plan(plan: Plan, sampler: Sampler) -> None:
    """Raises PlanError where a sampler has fewer steps than the plan names."""
    need, have = least_steps(plan.options), len(sampler.grid)
    if have < need:
        raise PlanError(
            f"the plan names {_STEP}{need - 1} and so needs at least {need} steps; this sampler "
            f"takes {described(sampler.grid)}"
        )


def check_ways(sampler: Sampler) -> None:
    """Raises PlanError where a step reuses what fewer steps before it computed than it reads, or
    no step is taken."""
    computed: dict[str, int] = {}
    steps = [s for s in sampler.steps if isinstance(s, Step)]
    if not steps:
        raise PlanError("the plan takes none of the sampler's steps; at least one must be taken")
    for step in steps:
        for span in step.way.reuse:
            if not computed.get(span.name):
                raise PlanError(
                    f"step {step.index} reuses {span.name}, which no step before it computes; the "
                    "plan's least number of steps before a reuse is 1"
                )
        for span in sampler.spans:
            if span not in step.way.reuse:
                computed[span.name] = computed.get(span.name, 0) + 1


def remarks(guidance: Guidance | None, calibrated: Sequence[float]) -> tuple[str, ...]:
    """What is doubtful about a guidance scale, a sentence each.

    calibrated: scales of the samples that ranges and errors were measured on; 1 is no guidance.
    """
    scale = 1.0 if guidance is None else guidance.scale
    if not calibrated or any(abs(scale - c) <= 1e-6 * max(1.0, abs(c)) for c in calibrated):
        return ()
    seen = ", ".join(f"{c:g}" for c in sorted(calibrated))
    return (
        f"guidance scale {scale:g} was never calibrated ({seen} was): ranges of tensors and the "
        "errors that the plan was chosen by may differ; calibrate with it, or sample with one of "
        "those",
    )
