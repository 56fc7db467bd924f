"""Tasks: what a command's TASK names: a file's function, a built-in, or a sampler's directory."""

from __future__ import annotations

from typing import Any

from allot import task_file
from allot.errors import InputError
from allot.families import diffusion_task
from allot.samplers.task import Noises
from allot.task import Task

# settings of a sampler's directory, DIR@steps=20,guidance=2: what each is made of
_SETTINGS = {
    "steps": int, "guidance": float, "conditions": str,
    "calibrate": int, "search": int, "certify": int,
}  # fmt: skip


def find(name: str, *, seed: int = 0) -> Task:
    """The task of a name; raises InputError.

    A directory that diffusers wrote is a sampler: DIR, or DIR@steps=50,guidance=2, with calibrate,
    search and certify for how many noises are drawn, and conditions for a file of them.
    """
    folder, at, text = name.partition("@")
    if not diffusion_task.is_sampler(folder):
        return task_file.find(name, seed=seed)
    given = _settings(text, name) if at else {}
    noises = {k: given.pop(k) for k in ("calibrate", "search", "certify") if k in given}
    return diffusion_task.task(folder, noises=Noises(seed=seed, **noises), **given)


def _settings(text: str, name: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for part in text.split(","):
        key, _, value = part.partition("=")
        if key not in _SETTINGS:
            raise InputError(f"{name}: {key!r} is no setting; there are {', '.join(_SETTINGS)}")
        try:
            found[key] = _SETTINGS[key](value)
        except ValueError as e:
            kind = _SETTINGS[key].__name__
            raise InputError(f"{name}: {key}={value!r} is no {kind}; give one") from e
    return found
