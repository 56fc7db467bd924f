"""Grids of the schedulers of diffusers: what can be expressed, exactly, and what would do instead.

DDIM, Euler, flow-matching Euler and DPM-Solver++ of orders 1 and 2 are one `Grid` each; every
spacing of their times and noises (linspace, leading, trailing, Karras, exponential, beta) is taken
from the scheduler itself.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from allot.errors import InputError, MissingError
from allot.sampling.grid import EPSILON, FLOW, SAMPLE, VELOCITY, Grid

_PREDICTS = {
    "epsilon": EPSILON, "sample": SAMPLE, "original_sample": SAMPLE, "v_prediction": VELOCITY,
    "flow_prediction": FLOW,
}  # fmt: skip
_INSTEAD = (
    "DDIMScheduler, EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler and "
    "DPMSolverMultistepScheduler (dpmsolver++, order 1 or 2, midpoint) can; build one with "
    "from_config(scheduler.config)"
)
# DPM-Solver++ takes its last step at order 1 where it takes fewer steps than this
_FEW = 15
Sigmas = Sequence[float]


def diffusers() -> Any:
    """The library; raises MissingError where it is not installed."""
    try:
        import diffusers
    except ImportError as e:
        raise MissingError("diffusers is not installed: pip install 'allot[diffusion]'") from e
    return diffusers


def grid_of(
    scheduler: Any,
    steps: int,
    *,
    eta: float = 0.0,
    mu: float | None = None,
    sigmas: Sigmas | None = None,
) -> Grid:
    """The noise levels that a scheduler of diffusers visits in so many steps; it is not changed.

    A DDPMScheduler is sampled as DDIM (Song et al. 2021), as its networks usually are.  eta: share
    of fresh noise, which must be 0.  mu: shift of a flow's times where the scheduler shifts them by
    the picture's size.  sigmas: levels of noise instead of the scheduler's own, as pipelines of
    flow networks give them.  Raises InputError for what a grid cannot express.
    """
    if steps < 1:
        raise InputError(f"a sampler takes at least one step, not {steps}")
    if eta != 0:
        raise InputError(
            f"eta = {eta:g} adds fresh noise at every step; plans compare samples of the same "
            "noise, so give eta = 0"
        )
    library = diffusers()
    makers: tuple[tuple[type, Any], ...] = (
        (library.DDIMScheduler, _ddim),
        (library.DDPMScheduler, _ddim),
        (library.EulerDiscreteScheduler, _euler),
        (library.FlowMatchEulerDiscreteScheduler, _flow),
        (library.DPMSolverMultistepScheduler, _multistep),
    )
    # a class itself, not a descendant: those that add noise descend from those that do not
    make = next((make for kind, make in makers if type(scheduler) is kind), None)
    if make is None:
        raise InputError(f"{_name(scheduler)} has no grid; {_INSTEAD}")
    _refuse(scheduler, "thresholding", "the bound is found in every sample anew; use clip_sample")
    return _checked(make(scheduler, steps, mu, sigmas), scheduler)


def _name(scheduler: Any) -> str:
    return type(scheduler).__name__


def _refuse(scheduler: Any, setting: str, instead: str, *, allowed: Sequence[Any] = ()) -> None:
    """Raises InputError for a setting that is on, or is none of those allowed."""
    value = scheduler.config.get(setting)
    if value not in allowed if allowed else bool(value):
        raise InputError(f"{_name(scheduler)} with {setting} = {value!r} has no grid: {instead}")


def _unused(scheduler: Any, **given: Any) -> None:
    for name, value in given.items():
        if value is not None:
            raise InputError(f"{_name(scheduler)} takes no {name}")


def _predicts(scheduler: Any, *, flow: bool = False) -> str:
    """What the network predicts; flow: levels add up to 1, else their squares do."""
    kind = scheduler.config.prediction_type
    # signal and noise give a velocity back only where their squares add up to 1, a flow elsewhere
    foreign = VELOCITY if flow else FLOW
    known = {k: v for k, v in _PREDICTS.items() if v != foreign}
    if kind not in known:
        raise InputError(
            f"{_name(scheduler)} has prediction_type = {kind!r}; with its noise levels "
            f"{', '.join(known)} are possible"
        )
    return known[kind]


def _ddim(scheduler: Any, steps: int, mu: float | None, sigmas: Sigmas | None) -> Grid:
    """DDIM names the time it leads to as t - T // steps, which must be the next one's."""
    _unused(scheduler, mu=mu, sigmas=sigmas)
    predicts = _predicts(scheduler)
    ddim = diffusers().DDIMScheduler
    known = {k: v for k, v in scheduler.config.items() if not k.startswith("_")}
    known.pop("variance_type", None)  # of what DDPM adds at every step, which DDIM does not
    made = ddim.from_config({**known, "_class_name": ddim.__name__})
    made.set_timesteps(steps)
    times = [int(t) for t in made.timesteps]
    stride = made.config.num_train_timesteps // steps
    for t, after in itertools.pairwise(times):
        if t - stride != after:
            spacing = made.config.timestep_spacing
            raise InputError(
                f"{_name(scheduler)} with timestep_spacing = {spacing!r} and {steps} steps leads "
                f"from time {t} to {t - stride} but evaluates next at {after}; use "
                "timestep_spacing='leading', or 'trailing' with a number of steps that divides "
                f"{made.config.num_train_timesteps}"
            )
    end = times[-1] - stride
    last = made.final_alpha_cumprod if end < 0 else made.alphas_cumprod[end]
    powers = [made.alphas_cumprod[t] for t in times]
    config = made.config
    return Grid(
        times=tuple(map(float, times)),
        signals=tuple(float(a**0.5) for a in powers),
        noises=tuple(float((1 - a) ** 0.5) for a in powers),
        end_signal=float(last**0.5),
        end_noise=float((1 - last) ** 0.5),
        predicts=predicts,
        clip=float(config.clip_sample_range) if config.clip_sample else None,
    )


def _euler(scheduler: Any, steps: int, mu: float | None, sigmas: Sigmas | None) -> Grid:
    """Euler in sigma = noise / signal is told x / sqrt(sigma^2 + 1), which has unit variance."""
    _unused(scheduler, mu=mu)
    predicts = _predicts(scheduler)
    made = copy.deepcopy(scheduler)
    if sigmas is None:
        made.set_timesteps(steps)
    else:
        made.set_timesteps(sigmas=[*_counted(sigmas, steps), 0.0])
    grid = _by_ratio(made, predicts)
    first, last = float(made.sigmas[0]), float(made.sigmas[-1])
    start = float(made.init_noise_sigma) / (first**2 + 1) ** 0.5
    # Euler's own samples are sample + sigma * noise, also where sigma does not end at 0
    return replace(grid, start=start, end_signal=1.0, end_noise=last)


def _by_ratio(made: Any, predicts: str) -> Grid:
    """A grid of unit variance from the noise-to-signal ratios of a scheduler that is set up."""
    levels = [((s * s + 1) ** -0.5, s * (s * s + 1) ** -0.5) for s in made.sigmas.double().tolist()]
    return _by_levels(made, levels, predicts)


def _by_levels(made: Any, levels: list[tuple[float, float]], predicts: str) -> Grid:
    return Grid(
        times=tuple(float(t) for t in made.timesteps),
        signals=tuple(a for a, _ in levels[:-1]),
        noises=tuple(s for _, s in levels[:-1]),
        end_signal=levels[-1][0],
        end_noise=levels[-1][1],
        predicts=predicts,
    )


def _flow(scheduler: Any, steps: int, mu: float | None, sigmas: Sigmas | None) -> Grid:
    """Flow matching (Lipman et al. 2023): x = (1 - sigma) * sample + sigma * noise."""
    _refuse(scheduler, "stochastic_sampling", "it adds fresh noise at every step; turn it off")
    _refuse(scheduler, "invert_sigmas", "its time runs from sample to noise; turn it off")
    if scheduler.config.use_dynamic_shifting and mu is None:
        raise InputError(
            f"{_name(scheduler)} with use_dynamic_shifting = True shifts its times by the "
            "picture's size; give mu, as the pipeline computes it from the number of tokens"
        )
    if not scheduler.config.use_dynamic_shifting:
        _unused(scheduler, mu=mu)
    made = copy.deepcopy(scheduler)
    own = None if sigmas is None else _counted(sigmas, steps)
    made.set_timesteps(steps, sigmas=own, mu=mu)
    return _by_levels(made, [(1 - s, s) for s in made.sigmas.double().tolist()], FLOW)


def _counted(sigmas: Sigmas, steps: int) -> list[float]:
    if len(sigmas) != steps:
        raise InputError(f"{steps} steps need as many sigmas, {len(sigmas)} were given")
    return list(sigmas)


def _multistep(scheduler: Any, steps: int, mu: float | None, sigmas: Sigmas | None) -> Grid:
    """DPM-Solver++ of orders 1 and 2 (Lu et al. 2022)."""
    _unused(scheduler, mu=mu, sigmas=sigmas)
    _refuse(scheduler, "use_dynamic_shifting", "give flow_shift, the exponential of mu, instead")
    _refuse(
        scheduler, "algorithm_type", allowed=("dpmsolver++",),
        instead="use 'dpmsolver++'; those with 'sde' add fresh noise",
    )  # fmt: skip
    _refuse(scheduler, "solver_order", "use solver_order=2 or 1", allowed=(1, 2))
    order = int(scheduler.config.solver_order)
    if order == 2:
        _refuse(scheduler, "solver_type", "use solver_type='midpoint'", allowed=("midpoint",))
    flows = bool(scheduler.config.use_flow_sigmas)
    predicts = _predicts(scheduler, flow=flows)
    made = copy.deepcopy(scheduler)
    made.set_timesteps(steps)
    if flows:
        grid = _by_levels(made, [(1 - s, s) for s in made.sigmas.double().tolist()], predicts)
    else:
        grid = _by_ratio(made, predicts)
    config = made.config
    few = config.lower_order_final and steps < _FEW
    low = bool(config.euler_at_final or few or config.final_sigmas_type == "zero")
    return replace(grid, order=order, last_first_order=low)


def _checked(grid: Grid, scheduler: Any) -> Grid:
    """The grid; raises InputError where its levels do not lead from noise to none."""
    levels = [grid.level(i) for i in range(len(grid) + 1)]
    for i, (a, b) in enumerate(itertools.pairwise(levels)):
        last = i == len(grid) - 1  # some end where their last step already is
        if b.log_snr < a.log_snr or (b.log_snr == a.log_snr and not last):
            raise InputError(
                f"{_name(scheduler)} visits no less noise at step {i + 1} (time {b.time:g}) than "
                f"at step {i} (time {a.time:g}); take fewer steps or another spacing"
            )
    if grid.signals[0] == 0 and grid.predicts == EPSILON:
        raise InputError(
            f"{_name(scheduler)} starts without any signal (rescale_betas_zero_snr), where a "
            "predicted noise tells nothing of the sample; that goes with v_prediction or sample"
        )
    return grid
