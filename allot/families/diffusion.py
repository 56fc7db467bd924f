"""Diffusion: a network and scheduler of diffusers, from files or memory, as a `Sampler`.

Samples are what the network denoises: pictures, or latents of an autoencoder that stays outside.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from allot.errors import InputError
from allot.families.diffusion_checks import check_grid as check_grid
from allot.families.diffusion_checks import check_plan as check_plan
from allot.families.diffusion_checks import remarks as remarks
from allot.families.diffusion_denoiser import denoiser_of, null_class, takes
from allot.families.diffusion_denoiser import example_of as example_of
from allot.families.diffusion_grids import grid_of
from allot.families.diffusion_read import read
from allot.families.diffusion_spans import span_sets as span_sets
from allot.families.diffusion_spans import spans_of
from allot.families.diffusion_spans import time_only as time_only
from allot.sampling.sampler import Guidance, Sampler

Null = Mapping[str, Tensor | int | float]


def load(
    path: str | Path,
    *,
    steps: int,
    scheduler: Any = None,
    guidance: float = 1.0,
    without: Null | None = None,
    mu: float | None = None,
    sigmas: Sequence[float] | None = None,
) -> Sampler:
    """The sampler of a local directory of diffusers; nothing is downloaded.

    path: of a pipeline (model_index.json) or of a network (config.json) with a folder `scheduler`;
    weights are read from safetensors alone.  scheduler: another one than the directory's.  The
    rest is that of `sampler_of`.  Raises InputError, ArtefactError for files that are missing or
    not to be trusted, MissingError without diffusers.
    """
    found = read(Path(path), scheduler=scheduler)
    return sampler_of(
        found.model, found.scheduler, steps, guidance=guidance, without=without, mu=mu,
        sigmas=sigmas,
    )  # fmt: skip


def sampler_of(
    model: nn.Module,
    scheduler: Any,
    steps: int,
    *,
    guidance: float = 1.0,
    without: Null | None = None,
    mu: float | None = None,
    sigmas: Sequence[float] | None = None,
) -> Sampler:
    """A network of diffusers in evaluation mode and a scheduler's steps as one module.

    guidance: scale of classifier-free guidance, 1 for none; networks that are told a scale (Flux)
    are told it instead.  without: conditions that stand for none; by default the extra class of a
    network with one.  mu, sigmas: see `grid_of`.  Raises InputError.
    """
    grid = grid_of(scheduler, steps, mu=mu, sigmas=sigmas)
    denoiser = denoiser_of(model, guidance=guidance)
    told = "guidance" in takes(model) and "img_ids" in takes(model)
    found = Sampler(
        denoiser=denoiser,
        grid=grid,
        guidance=None if told else guidance_of(model, guidance, without=without),
        spans=spans_of(denoiser),
    )
    return found.eval()


def guidance_of(model: nn.Module, scale: float, *, without: Null | None = None) -> Guidance | None:
    """Guidance of a scale, None for 1; raises InputError where nothing stands for no condition."""
    if scale == 1.0:
        return None
    if without is not None:
        return Guidance(scale=scale, without=without)
    if "encoder_hidden_states" in takes(model):
        raise InputError(
            f"guidance {scale:g} of {type(model).__name__} needs the text that stands for none; "
            "give without={'encoder_hidden_states': what its text encoder makes of ''}"
        )
    label = null_class(model)
    if label is None:
        raise InputError(
            f"{type(model).__name__} has no extra class that stands for none, so guidance "
            f"{scale:g} cannot be; use guidance=1, or without={{'class_labels': n}} if it was "
            "trained with class n as none"
        )
    return Guidance(scale=scale, without={"class_labels": label})
