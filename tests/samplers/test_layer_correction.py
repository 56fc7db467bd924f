"""Laws of corrected layers: at every step no channel is further from the original's than before.

Faults these laws must catch: a correction of another step; fits on the plan's own run instead of
the original's; later layers fitted without the earlier ones; a layer left swapped.
"""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from allot.errors import PlanError
from allot.samplers.layer_correction import CorrectedLayer, _outputs, layers_corrected
from allot.sampling.features import features
from allot.sampling.moment import Moment, Request
from allot.sampling.sampler import Sampler, Way
from allot.sampling.spans import HOLD
from tests.sampling import nets
from tests.small import hooks, identities


def case() -> tuple[Sampler, Sampler]:
    """A UNet, and the same with spoilt weights and a span taken again."""
    original = nets.levels()
    network = copy.deepcopy(original.denoiser)
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in network.parameters():
            p += 0.1 * torch.randn(p.shape, generator=g, dtype=p.dtype) * p.abs().mean()
    plan = Sampler(denoiser=network, grid=original.grid)
    return original, nets.planned(plan, {i: Way(reuse={nets.DEEP: HOLD}) for i in (1, 3, 4)})


def test_no_channel_loses_at_any_step_and_every_layer_builds_on_those_before() -> None:
    original, plan = case()
    s = nets.seeds(6, original)
    layers = ("up.1.conv", "last")
    before = identities(plan), identities(original)
    found = layers_corrected(original, plan, s, layers=layers, batch=4)
    assert before == (identities(plan), identities(original)) and hooks(plan) == 0
    assert list(found) == [f"denoiser.{name}" for name in layers]
    inputs = features(original, s).inputs
    truth = {name: _outputs(original, s, inputs, name) for name in layers}
    for name in layers:
        spoilt = _outputs(plan, s, inputs, name)
        parent_name, _, child = name.rpartition(".")
        plan.denoiser.get_submodule(parent_name)._modules[child] = found[f"denoiser.{name}"]
        right = _outputs(plan, s, inputs, name)
        for key, y in truth[name].items():
            after, was = (_by_channel(out[key] - y) for out in (right, spoilt))
            assert bool((after <= was * (1 + 1e-5)).all())
            assert after.sum() < was.sum()


def _by_channel(x: Tensor) -> Tensor:
    return x.square().sum(dim=(0, 2, 3))


def test_of_the_original_itself_nothing_is_corrected() -> None:
    original, _ = case()
    s = nets.seeds(4, original)
    found = layers_corrected(original, original, s, layers=["last"])["denoiser.last"]
    torch.testing.assert_close(found.gain, torch.ones_like(found.gain))
    torch.testing.assert_close(found.shift, torch.zeros_like(found.shift), atol=1e-6, rtol=0)


def test_a_step_without_a_correction_is_refused() -> None:
    layer = CorrectedLayer(
        inner=torch.nn.Linear(2, 3), gain=torch.ones(4, 3), shift=torch.zeros(4, 3)
    )
    x = torch.randn(2, 2, generator=torch.Generator().manual_seed(0))
    assert torch.equal(layer(x), layer.inner(x))
    assert layer.out_features == 3
    grid = nets.grid(6)
    with pytest.raises(PlanError, match="corrected at 4 steps and asked for step 4"):
        layer.at(Moment(step=4, level=grid.level(4), request=Request()))
