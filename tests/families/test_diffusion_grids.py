"""A grid is its scheduler: same samples on the scheduler's own steps, refused where it cannot be.

Faults that these tests must find: levels of another spacing; sigma taken for noise / signal; the
start of Euler's noise not scaled; the last step's level or order wrong; a setting that changes
samples passed over.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from allot.errors import InputError
from allot.families.diffusion_grids import grid_of
from allot.sampling.sampler import Sampler

diffusers = pytest.importorskip("diffusers")
STEPS = 12
LINEAR = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
SPACINGS = ("linspace", "leading", "trailing")


class Smooth(nn.Module):
    """A denoiser that depends on all it is given: x [n, 2, 4, 4], time [n]."""

    def __init__(self) -> None:
        nn.Module.__init__(self)
        weights = torch.randn(2, 2, generator=torch.Generator().manual_seed(3))
        self.mix = nn.Parameter(0.4 * weights, requires_grad=False)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        mixed = torch.einsum("oc,nchw->nohw", self.mix, x)
        return torch.tanh(mixed + torch.cos(time / 150)[:, None, None, None]) + 0.3 * x


def noise(n: int = 2) -> Tensor:
    return torch.randn(n, 2, 4, 4, generator=torch.Generator().manual_seed(0))


def own_loop(scheduler: Any, **settings: Any) -> Tensor:
    """Samples of the scheduler's own loop, as pipelines run it."""
    network = Smooth()
    scheduler.set_timesteps(**(settings or {"num_inference_steps": STEPS}))
    x = noise()
    if isinstance(scheduler, diffusers.EulerDiscreteScheduler):
        x = x * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        told = x
        if not isinstance(scheduler, diffusers.FlowMatchEulerDiscreteScheduler):
            told = scheduler.scale_model_input(x, t)
        out = network(told, t.float().expand(len(x)))
        x = scheduler.step(out, t, x, return_dict=False)[0]
    return x


def assert_same(scheduler: Any, wanted: Tensor, steps: int = STEPS, **settings: Any) -> None:
    sampler = Sampler(denoiser=Smooth(), grid=grid_of(scheduler, steps, **settings))
    with torch.no_grad():
        found = sampler(noise())
    scale = max(1.0, float(wanted.abs().max()))
    assert float((found - wanted).abs().max()) <= 1e-5 * scale


@pytest.mark.parametrize("predicts", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("clip", [False, True])
@pytest.mark.parametrize("to_one", [False, True])
def test_ddim(predicts: str, clip: bool, to_one: bool) -> None:
    scheduler = diffusers.DDIMScheduler(
        **LINEAR, prediction_type=predicts, clip_sample=clip, set_alpha_to_one=to_one,
        steps_offset=1,
    )  # fmt: skip
    assert_same(scheduler, own_loop(scheduler))


def test_ddim_with_trailing_times_that_divide() -> None:
    scheduler = diffusers.DDIMScheduler(**LINEAR, clip_sample=False, timestep_spacing="trailing")
    assert_same(scheduler, own_loop(scheduler, num_inference_steps=10), steps=10)


def test_ddpm_is_sampled_as_ddim() -> None:
    ddpm = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2")
    ddim = diffusers.DDIMScheduler(beta_schedule="squaredcos_cap_v2")
    assert_same(ddpm, own_loop(ddim))


def test_zero_terminal_signal_goes_with_velocities() -> None:
    settings = {**LINEAR, "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
    scheduler = diffusers.DDIMScheduler(
        **settings, clip_sample=False, prediction_type="v_prediction"
    )
    assert 0.0 == grid_of(scheduler, 10).signals[0]
    assert_same(scheduler, own_loop(scheduler, num_inference_steps=10), steps=10)
    with pytest.raises(InputError, match="goes with v_prediction"):
        grid_of(diffusers.DDIMScheduler(**settings), 10)


@pytest.mark.parametrize("predicts", ["epsilon", "original_sample", "v_prediction"])
@pytest.mark.parametrize("spacing", SPACINGS)
def test_euler(predicts: str, spacing: str) -> None:
    scheduler = diffusers.EulerDiscreteScheduler(
        **LINEAR, prediction_type=predicts, timestep_spacing=spacing
    )
    assert_same(scheduler, own_loop(scheduler))


@pytest.mark.parametrize(
    "setting",
    [
        {"use_karras_sigmas": True},
        {"use_exponential_sigmas": True},
        {"use_beta_sigmas": True},
        {"timestep_type": "continuous", "prediction_type": "v_prediction"},
        {"final_sigmas_type": "sigma_min"},
        {"steps_offset": 1, "timestep_spacing": "leading"},
    ],
)
def test_euler_with_other_noise_levels(setting: dict[str, Any]) -> None:
    scheduler = diffusers.EulerDiscreteScheduler(**LINEAR, **setting)
    assert_same(scheduler, own_loop(scheduler))


def test_euler_with_noise_levels_that_are_given() -> None:
    scheduler = diffusers.EulerDiscreteScheduler(**LINEAR)
    sigmas = [14.0, 6.0, 3.0, 1.2, 0.5, 0.1]
    wanted = own_loop(scheduler, sigmas=[*sigmas, 0.0])
    assert_same(scheduler, wanted, steps=6, sigmas=sigmas)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_flow_matching_euler(shift: float) -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    assert_same(scheduler, own_loop(scheduler))


def test_flow_matching_euler_as_the_pipeline_of_flux_sets_it_up() -> None:
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    sigmas = torch.linspace(1, 1 / STEPS, STEPS).tolist()
    wanted = own_loop(scheduler, sigmas=sigmas, mu=0.7)
    assert_same(scheduler, wanted, sigmas=sigmas, mu=0.7)


@pytest.mark.parametrize("predicts", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("steps", [STEPS, 20])
def test_dpm_solver(predicts: str, order: int, steps: int) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(
        **LINEAR, prediction_type=predicts, solver_order=order
    )
    assert_same(scheduler, own_loop(scheduler, num_inference_steps=steps), steps=steps)


@pytest.mark.parametrize("steps", [STEPS, 20])
@pytest.mark.parametrize(
    "setting",
    [
        {"final_sigmas_type": "sigma_min"},
        {"final_sigmas_type": "sigma_min", "euler_at_final": True},
        {"final_sigmas_type": "sigma_min", "lower_order_final": False},
        {"use_karras_sigmas": True},
        {"use_lu_lambdas": True},
        {"timestep_spacing": "trailing"},
        {"timestep_spacing": "leading", "steps_offset": 1},
        {"use_flow_sigmas": True, "prediction_type": "flow_prediction", "flow_shift": 3.0},
    ],
)
def test_dpm_solver_with_other_settings(setting: dict[str, Any], steps: int) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler(**LINEAR, **setting)
    assert_same(scheduler, own_loop(scheduler, num_inference_steps=steps), steps=steps)


REFUSED = {
    "HeunDiscreteScheduler has no grid; DDIMScheduler": lambda d: d.HeunDiscreteScheduler(),
    "EulerAncestralDiscreteScheduler has no grid": lambda d: d.EulerAncestralDiscreteScheduler(),
    "PNDMScheduler has no grid": lambda d: d.PNDMScheduler(),
    r"DDIMScheduler with thresholding = True.*clip_sample": lambda d: d.DDIMScheduler(
        thresholding=True
    ),
    r"timestep_spacing = 'linspace' and 12 steps.*use timestep_spacing='leading'": (
        lambda d: d.DDIMScheduler(timestep_spacing="linspace")
    ),
    r"timestep_spacing = 'trailing' and 12 steps.*divides 1000": lambda d: d.DDIMScheduler(
        timestep_spacing="trailing"
    ),
    r"use_dynamic_shifting = True.*give mu": lambda d: d.FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True
    ),
    r"stochastic_sampling = True": lambda d: d.FlowMatchEulerDiscreteScheduler(
        stochastic_sampling=True
    ),
    r"invert_sigmas = True": lambda d: d.FlowMatchEulerDiscreteScheduler(invert_sigmas=True),
    r"algorithm_type = 'sde-dpmsolver\+\+'.*fresh noise": lambda d: d.DPMSolverMultistepScheduler(
        algorithm_type="sde-dpmsolver++"
    ),
    r"solver_order = 3.*solver_order=2": lambda d: d.DPMSolverMultistepScheduler(solver_order=3),
    r"solver_type = 'heun'.*midpoint": lambda d: d.DPMSolverMultistepScheduler(solver_type="heun"),
    r"use_dynamic_shifting = True.*give flow_shift": lambda d: d.DPMSolverMultistepScheduler(
        use_dynamic_shifting=True
    ),
    r"prediction_type = 'flow_prediction'": lambda d: d.DPMSolverMultistepScheduler(
        prediction_type="flow_prediction"
    ),
}


@pytest.mark.parametrize("said", REFUSED)
def test_what_a_grid_cannot_express_is_refused_with_what_would_do(said: str) -> None:
    with pytest.raises(InputError, match=said):
        grid_of(REFUSED[said](diffusers), STEPS)


def test_fresh_noise_is_refused() -> None:
    with pytest.raises(InputError, match="eta = 0"):
        grid_of(diffusers.DDIMScheduler(), STEPS, eta=0.5)


def test_sigmas_are_counted_and_only_for_schedulers_that_take_them() -> None:
    flow = diffusers.FlowMatchEulerDiscreteScheduler()
    with pytest.raises(InputError, match="12 steps need as many sigmas, 2"):
        grid_of(flow, STEPS, sigmas=[1.0, 0.5])
    with pytest.raises(InputError, match="DDIMScheduler takes no sigmas"):
        grid_of(diffusers.DDIMScheduler(), 2, sigmas=[1.0, 0.5])


def test_no_steps_are_refused() -> None:
    with pytest.raises(InputError, match="at least one step"):
        grid_of(diffusers.DDIMScheduler(), 0)


def test_the_scheduler_itself_is_not_set_up() -> None:
    for scheduler in (diffusers.DDIMScheduler(), diffusers.EulerDiscreteScheduler()):
        before = scheduler.timesteps.clone()
        grid_of(scheduler, STEPS)
        assert torch.equal(before, scheduler.timesteps)


def test_levels_that_do_not_fall_are_refused() -> None:
    flow = diffusers.FlowMatchEulerDiscreteScheduler()
    with pytest.raises(InputError, match="visits no less noise at step 1"):
        grid_of(flow, 3, sigmas=[0.5, 0.5, 0.1])
