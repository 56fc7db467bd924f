"""Task of a directory: a network of diffusers, its steps and its conditions, ready to compress."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from allot.errors import InputError
from allot.families.diffusion import load
from allot.families.diffusion_denoiser import example_of
from allot.families.diffusion_export import exported
from allot.families.diffusion_files import open_sampler, write
from allot.families.diffusion_spans import span_sets
from allot.files import load_weights
from allot.judging.judge import Judge
from allot.samplers.task import NOISES, Noises, task_of
from allot.sampling.sampler import Sampler
from allot.site import Graph
from allot.target import Target, Workload
from allot.task import Task

STEPS = 20
SIGNS = ("model_index.json", "config.json")


def is_sampler(path: str | Path) -> bool:
    """Whether a path is a directory that diffusers wrote."""
    folder = Path(path)
    return folder.is_dir() and any((folder / name).is_file() for name in SIGNS)


def task(
    path: str | Path,
    *,
    steps: int = STEPS,
    guidance: float = 1.0,
    conditions: str | Path | None = None,
    noises: Noises = NOISES,
    judge: Judge | None = None,
) -> Task:
    """The task of a local directory of diffusers, sampled in `steps` of its own scheduler.

    conditions: safetensors file of what the network is told, one row per prompt, tensors named as
    the denoiser's arguments (`encoder_hidden_states`, ...); not needed where it is told a class
    or nothing.  Raises InputError where conditions lack, and what `diffusion.load` raises.
    """
    folder = Path(path)
    sampler = load(folder, steps=steps, guidance=guidance)
    example = example_of(sampler.denoiser)
    shape = tuple(example.pop("x").shape[1:])
    example.pop("time")
    told = load_weights(conditions) if conditions is not None else _classes(sampler, example)
    if set(told) != set(example):
        raise InputError(
            f"{folder} is told {', '.join(sorted(example)) or 'nothing'}; "
            f"{_given(conditions)} {', '.join(sorted(told)) or 'nothing'}"
        )
    origin = {"sampler": {
        "steps": steps, "guidance": guidance, "shape": list(shape), "grid": sampler.grid.dump(),
    }}  # fmt: skip
    return task_of(
        sampler, shape, name=folder.resolve().name, conditions=told, noises=noises, judge=judge,
        sets=span_sets(sampler.denoiser), origin=origin,
        written=functools.partial(written, source=folder),
    )  # fmt: skip


def written(
    folder: Path,
    sampler: Sampler,
    graph: Graph,
    example: Mapping[str, Tensor],
    *,
    target: Target,
    workload: Workload,
    source: Path,
) -> Sampler:
    """A planned sampler as a folder of diffusers with a graph for every distinct step, opened
    again in a runtime; raises what `diffusion_export.exported` raises."""
    files = exported(sampler, graph, example)
    write(folder, sampler, files, graph, source=source)
    return open_sampler(folder, target, workload=workload)


def _given(conditions: str | Path | None) -> str:
    if conditions is None:
        return "give conditions=FILE.safetensors with a row per prompt; known without one is"
    return f"{conditions} holds"


def _classes(sampler: Sampler, example: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Every class once, for a network that is told nothing else."""
    if set(example) != {"class_labels"}:
        return {}
    config: Any = sampler.denoiser.get_submodule("model").config
    count = config.get("num_embeds_ada_norm") or config.get("num_class_embeds")
    return {"class_labels": torch.arange(int(count))}


def network(task: Task) -> nn.Module:
    """The network of a task's sampler, as diffusers made it."""
    assert isinstance(task.model, Sampler)
    return task.model.denoiser.get_submodule("model")
