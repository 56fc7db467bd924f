"""Laws of constants: the mean of what a span gives, put there without anything being computed."""

from __future__ import annotations

import pytest
import torch

from allot.errors import ModelError
from allot.sampling.constant import left_constant
from allot.sampling.features import features
from allot.sampling.moment import Moment, Request
from allot.sampling.sampler import Way
from allot.sampling.spans import Span
from tests.sampling import nets


@pytest.mark.parametrize("make", (nets.levels, nets.blocks))
def test_a_constant_is_the_mean_over_the_seeds(make) -> None:  # type: ignore[no-untyped-def]
    original = make()
    span = nets.DEEP if make is nets.levels else nets.BLOCKS
    s = nets.seeds(7, original)
    steps = left_constant(original, s, spans=[span], steps=[2, 4], batch=3)
    seen = features(original, s, spans=[span])
    for i in (2, 4):
        moment = Moment(step=i, level=original.grid.level(i), request=Request())
        value = steps[f"steps.{i}"].way.reuse[span].predict((), moment)
        mean = seen.spans[span, ""][i].values[0].mean(0, keepdim=True)
        torch.testing.assert_close(value, mean, rtol=1e-12, atol=1e-12)


def test_a_level_left_out_at_every_step_is_never_run() -> None:
    original = nets.levels()
    s = nets.seeds(4, original)
    steps = left_constant(original, s, spans=[nets.DEEP], steps=range(6))
    plan = nets.planned(original, {int(k[6:]): v.way for k, v in steps.items()})
    ran: list[str] = []
    for name in nets.DEEP.modules:
        module = original.denoiser.get_submodule(name)
        module.register_forward_hook(lambda m, args, out, name=name: ran.append(name))
    assert nets.sample(plan, s).isfinite().all()
    assert ran == []


def test_a_constant_of_several_tensors_is_refused() -> None:
    original = nets.levels()
    span = Span(name="down", modules=("down.1",))
    with pytest.raises(ModelError, match="several tensors leave down"):
        left_constant(original, nets.seeds(2, original), spans=[span], steps=[1])


def test_other_ways_of_the_step_stay() -> None:
    original = nets.blocks()
    plan = nets.planned(original, {2: Way(gain_out=0.9)})
    steps = left_constant(plan, nets.seeds(2, plan), spans=[nets.BLOCKS], steps=[2])
    assert steps["steps.2"].way.gain_out == 0.9
