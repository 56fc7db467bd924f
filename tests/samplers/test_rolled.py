"""Laws of measured plans of a sampler: the original loses nothing, every plan is run from noise."""

from __future__ import annotations

from functools import cache

import pytest
import torch

from allot.memo import Memo
from allot.options.steps import Drop
from allot.runtimes.ideal import Ideal
from allot.samplers import space as spaces
from allot.samplers.rolled import Rolled
from allot.samplers.task import Noises, task_of
from allot.sampling.sampler import Sampler, Step, Way
from allot.sampling.spans import HOLD
from allot.space import Point, Space
from allot.task import Task
from tests import tiny_sampler as tiny

NOISES = Noises(calibrate=8, search=12, certify=6)


@cache
def task() -> Task:
    labels = {"label": torch.arange(tiny.CLASSES)}
    return task_of(tiny.sampler(4), tiny.SHAPE, name="tiny", conditions=labels, noises=NOISES)


@cache
def space() -> Space:
    assert task().family is not None
    return spaces.whole(task().family.graph(task()), Ideal(), sets={"deep": (tiny.DEEP,)})


def rolled(batch: int = 64) -> Rolled:
    bank = tiny.bank_of(task(), space())
    return Rolled(
        space=space(), task=task(), bank=bank, data=task().search, memo=Memo(), batch=batch
    )


def with_labels(**wanted: str) -> Point:
    """The original with some sites in the option of a label."""
    point = list(space().original)
    for site, label in wanted.items():
        at = space().position(site.replace("_", "."))
        labels = [o.label for o in space().choices[at].options]
        point[at] = labels.index(label)
    return tuple(point)


def test_the_original_loses_nothing() -> None:
    loss = rolled().losses([space().original])[0]
    assert loss.divergence == pytest.approx(0, abs=1e-12) and loss.metric == 1.0


def test_a_plan_is_what_its_steps_do_in_the_sampler() -> None:
    plan = with_labels(steps_1="reuse-deep-hold-A8", steps_2="drop")
    found = rolled().samples_of(plan)
    original = task().model
    assert isinstance(original, Sampler)
    by_hand = Sampler(denoiser=original.denoiser, grid=original.grid, spans=(tiny.DEEP,))
    by_hand.steps[1] = Step(index=1, way=Way(reuse={tiny.DEEP: HOLD}))
    drop = next(
        o for o in space().choices[space().position("steps.2")].options if o.label == "drop"
    )
    assert isinstance(drop, Drop)
    by_hand.steps[2] = drop.apply(  # type: ignore[call-arg]
        original.steps[2],
        touch=None,
        site=None,
        graph=None,
        stats={},  # type: ignore[arg-type]
    )
    with torch.no_grad():
        assert torch.equal(found, by_hand(**task().search.inputs))


def test_batches_do_not_matter() -> None:
    plan = with_labels(steps_1="drop")
    a, b = rolled(batch=5).samples_of(plan), rolled(batch=64).samples_of(plan)
    assert torch.allclose(a, b, atol=1e-5)


def test_losses_are_kept_and_costs_follow_the_steps_taken() -> None:
    evaluator, plan = rolled(), with_labels(steps_1="drop", steps_3="drop")
    before = evaluator.spent
    assert evaluator.costs([plan]) == [0.5]
    first = evaluator.losses([plan])[0]
    assert evaluator.spent == before + 0.5
    assert evaluator.losses([plan])[0] == first and evaluator.costs([plan]) == [0.0]


def test_the_sampler_is_left_as_it_is() -> None:
    model = task().model
    before = {k: v.clone() for k, v in model.state_dict().items()}
    plan = tuple(n - 1 for n in space().counts)
    evaluator = rolled()
    evaluator.losses([plan, space().original])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert all(isinstance(s, Step) and s.way == Way() for s in model.get_submodule("steps"))


def test_bits_of_a_step_round_the_tensors_of_that_step_alone() -> None:
    evaluator = rolled()
    quantized = {c.site: 1 for c in space().choices if c.site.endswith(".input")}
    base = tuple(quantized.get(c.site, 0) for c in space().choices)
    assert torch.equal(evaluator.samples_of(base), evaluator.samples_of(space().original))
    at = space().position("steps.0")
    coarse = tuple(2 if i == at else v for i, v in enumerate(base))
    fine = tuple(1 if i == at else v for i, v in enumerate(base))
    original = evaluator.samples_of(space().original)
    far = (evaluator.samples_of(coarse) - original).pow(2).mean()
    assert far > 4 * (evaluator.samples_of(fine) - original).pow(2).mean() > 0
