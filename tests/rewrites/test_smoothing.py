"""Laws of smoothing.

Faults these must catch: factor and its inverse swapped, a reader or a bias forgotten, grouped
values scaled in the wrong places, a change taken that makes it worse, a shift where none passes.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from allot import part
from allot.errors import InputError, ModelError
from allot.num.formats import Format, Int
from allot.rewrites.channels import linear_of, rescale_
from allot.rewrites.inputs import inputs
from allot.rewrites.layers import copied
from allot.rewrites.rewrite import change
from allot.rewrites.smoothing import (
    ActivationAware,
    ShiftScale,
    Smooth,
    Smoothing,
    output_loss,
    unchanged,
)
from allot.rewrites.tracking import spaces
from allot.task import Task
from tests import small, toys
from tests.rewrites import transformers_small as made
from tests.rewrites.proofs import check_rewrite

IN_FOURS = Format(grid=Int(bits=4), group=4)
REWRITES = (
    Smooth(strengths=(0.3, 0.5, 0.8)),
    ShiftScale(steps=6),
    ActivationAware(steps=5, weight=IN_FOURS),
)
MAKES = (made.gated, made.vision)


@pytest.mark.parametrize("make", MAKES)
def test_any_factor_and_any_shift_that_pass_are_undone_by_the_readers(make) -> None:
    task, g = make(), torch.Generator().manual_seed(0)
    model, free = copied(task), [s for s in spaces(task) if s.readers and not s.scale]
    assert len(free) >= 4
    for space in free:
        factor = torch.rand(space.size, generator=g) * 3 + 0.2
        kinds = [w.kind for w in space.writers]
        shift = torch.randn(space.size, generator=g)
        rescale_(model, space, factor, shift if not space.shift and kinds == ["norm"] else None)
    with torch.no_grad():
        got = task.forward(model, task.calibrate.inputs)
    assert change(made.outputs(task)[:12], got) < 1e-5


@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("rewrite", REWRITES)
def test_the_network_computes_the_same(make, rewrite) -> None:
    check_rewrite(make(), rewrite)


def errors(task: Task, model, rewrite: Smoothing, names: list[str]) -> dict[str, float]:
    """Output error of what each norm of a network hands on, as the rewrite sees it."""
    met = inputs(task, model, names, tokens=512)
    here = replace(task, model=model)
    found = [s for s in spaces(here) if s.norm and not s.scale]
    return {s.norm: output_loss(rewrite, model, s, met, unchanged(s)) for s in found}


@pytest.mark.parametrize("rewrite", [Smooth(), ActivationAware(weight=IN_FOURS)])
def test_no_error_of_a_layer_grows_and_most_fall(rewrite) -> None:
    task = made.vision()
    names = [r.name for s in spaces(task) if s.norm for r in s.readers]
    before = errors(task, copied(task), rewrite, names)
    after = errors(task, rewrite.apply(task), rewrite, names)
    # rows of the norm's readers may have been rescaled for what reads them
    assert all(after[n] <= before[n] * (1 + 1e-4) for n in before if "norm2" in n)
    assert sum(after[n] < before[n] for n in before) >= len(before) / 2


def test_where_no_change_helps_the_network_stays() -> None:
    task = made.vision()
    bad = Smooth(strengths=(-8.0,))
    assert small.same_state(bad.apply(task).state_dict(), copied(task).state_dict())


@pytest.mark.parametrize("rewrite", REWRITES[:2])
@pytest.mark.parametrize(
    ("make", "places"),
    [
        (made.gated, made.GATED_NORMS),
        (made.gated, made.GATED_PRODUCTS),
        (made.vision, made.VISION_NORMS),
    ],
)
def test_planted_outliers_cost_less_afterwards(make, places, rewrite) -> None:
    task = made.planted(make(), places)
    new = replace(task, model=rewrite.apply(task))
    products = places is made.GATED_PRODUCTS
    made.check_helps(task, new, inputs=8 if products else 4, share=0.8 if products else 0.5)


def test_the_shift_centres_every_channel_that_a_norm_hands_to_linears() -> None:
    task = made.planted(made.vision(), made.VISION_NORMS)
    model = ShiftScale(steps=8).apply(task)
    names = ["layers.0.up", "layers.1.attention.query"]
    before, after = (inputs(task, m, names, tokens=64) for m in (task.model, model))
    for name in names:
        size = torch.maximum(after[name].high, -after[name].low)
        middle = (after[name].high + after[name].low) / 2
        assert float((middle.abs() / size).max()) < 1e-4
        assert float(((before[name].high + before[name].low).abs() / 2).max()) > 0.1


def test_linears_and_norms_without_a_bias_get_one_from_a_shift() -> None:
    task = made.planted(made.gated(), made.GATED_NORMS)
    model = ShiftScale(steps=4).apply(task)
    assert linear_of(task.model, "layers.0.q").bias is None
    assert linear_of(model, "layers.0.q").bias is not None
    assert "layers.0.norm1.bias" in dict(model.named_parameters())


def test_rewrites_stand_one_after_the_other() -> None:
    task = made.planted(made.gated(), made.GATED_NORMS)
    once = replace(task, model=ShiftScale(steps=4).apply(task))
    check_rewrite(once, Smooth(strengths=(0.5,)))


def test_a_group_that_does_not_divide_is_named_with_those_that_do() -> None:
    rewrite = ActivationAware(weight=Format(grid=Int(bits=4), group=5))
    with pytest.raises(InputError, match=r"groups of 5 .* 4 or 8 would|groups of 5 .* 4 or 6"):
        rewrite.apply(made.gated())


def test_a_network_without_a_place_is_refused_with_the_reason() -> None:
    with pytest.raises(ModelError, match="linears alone read"):
        Smooth().apply(small.task(toys.residual))


@pytest.mark.parametrize("rewrite", [Smooth(), ShiftScale(), ActivationAware()])
def test_settings_are_data(rewrite) -> None:
    assert part.load(rewrite.dump()) == rewrite
