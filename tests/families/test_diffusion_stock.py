"""A stock cache of diffusers, set up from a plan, samples what the plan samples.

Faults that these tests must find: a rhythm shifted by a step; a range of times that takes in a step
too many; attentions left out of the configuration; a plan said to be expressible that is not.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from allot.families.diffusion import sampler_of
from allot.families.diffusion_spans import span_sets
from allot.families.diffusion_stock import stock_cache
from allot.sampling.sampler import Dropped, Guidance, Sampler, Step, Way
from allot.sampling.spans import HOLD, Taylor
from tests.families import networks

diffusers = pytest.importorskip("diffusers")
STEPS = 8


def planned(name: str, steps: tuple[int, ...], group: str = "attention") -> Sampler:
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    s = sampler_of(networks.made(networks.NETWORKS[name]), scheduler, STEPS)
    spans = span_sets(s.denoiser)[group]
    for i in steps:
        s.steps[i] = Step(index=i, way=Way(reuse=dict.fromkeys(spans, HOLD)))
    return s


@pytest.mark.parametrize("steps", [(1, 2, 4, 5, 7), (3, 5), (1,), (4,)])
def test_diffusers_with_the_configuration_samples_the_plan(steps: tuple[int, ...]) -> None:
    s = planned("DiT", steps)
    found = stock_cache(s)
    assert found is not None
    model = networks.made(networks.dit)
    scheduler = diffusers.DDIMScheduler(clip_sample=False)
    scheduler.set_timesteps(STEPS)
    now: list[float] = []
    config = getattr(diffusers, found.pop("_class_name"))(
        **found, current_timestep_callback=lambda: now[-1]
    )
    diffusers.hooks.apply_pyramid_attention_broadcast(model, config)
    x: Tensor = torch.randn(2, 2, 8, 8, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([1, 3])
    with torch.no_grad():
        wanted = s(x, class_labels=labels)
        for t in scheduler.timesteps:
            now.append(float(t))
            out = model(x, t.expand(2), class_labels=labels).sample
            x = scheduler.step(out, t, x, return_dict=False)[0]
    torch.testing.assert_close(wanted, x, rtol=1e-5, atol=1e-5)


def test_what_diffusers_cannot_do_has_no_configuration() -> None:
    assert stock_cache(planned("DiT", ())) is None
    assert stock_cache(planned("DiT", (1, 2, 4, 7))) is None
    assert stock_cache(planned("DiT", (1, 2), group="feed-forward")) is None
    s = planned("DiT", (1, 2))
    assert stock_cache(s) is not None
    s.guidance = Guidance(scale=2.0, without={"class_labels": 5})
    assert stock_cache(s) is None
    for step in (Dropped(), Step(index=4, way=Way(bits=8)), Step(index=4, way=Way(gain_x=2.0))):
        s = planned("DiT", (1, 2))
        s.steps[4] = step
        assert stock_cache(s) is None
    s = planned("DiT", (1,))
    spans = span_sets(s.denoiser)["attention"]
    s.steps[3] = Step(index=3, way=Way(reuse=dict.fromkeys(spans, Taylor())))
    assert stock_cache(s) is None
