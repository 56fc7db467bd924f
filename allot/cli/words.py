"""Words: what is typed on the command line, turned into values; one sentence where it cannot be."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from allot import AXES, options, runtimes, setup
from allot.cli import tasks
from allot.errors import InputError, PlanError
from allot.flow import Axis
from allot.job import Job
from allot.recipes import Recipe, by_name
from allot.samples import WAYS, Samples
from allot.target import Target
from allot.task import Task

USUAL = ",".join(AXES)


def axes(text: str) -> dict[str, Axis]:
    """Name -> builder of an axis, for names divided by commas; raises InputError.

    An axis is a module of allot.options with a function `space(graph, target)`.
    """
    names = [n.strip() for n in text.split(",") if n.strip()]
    if not names:
        raise InputError(f"--axes names no axis; there are {', '.join(all_axes())}")
    if len(set(names)) < len(names):
        raise InputError(f"--axes {text} names an axis twice")
    return {n: _axis(n) for n in names}


def decided(text: str, recipe: Recipe | None, *, bits: str = "") -> dict[str, Axis]:
    """The axes of `--axes`; where it is not given, the recipe's, or the usual ones without one.

    bits: of `--bits`; a recipe that quantizes in a way of its own has a precision axis of its own,
    "RECIPE:BITS".  Raises InputError, also for an axis that the recipe does not decide.
    """
    if recipe is None:
        if bits:
            raise InputError(f"--bits {bits} is for a --recipe that quantizes; name one")
        return axes(text or USUAL)
    given = tuple(axes(text)) if text else ()
    names = recipe.covered(given)
    if recipe.passes is None and not bits:
        return axes(",".join(names))
    own = f"{recipe.name}:{bits}"
    return {own if n == "precision" else n: _axis(own if n == "precision" else n) for n in names}


def _axis(name: str) -> Axis:
    recipe, colon, bits = name.partition(":")
    if colon:
        return by_name(recipe).axis(bits)
    if name not in all_axes():
        raise InputError(f"there is no axis {name!r}; there are {', '.join(all_axes())}")
    found: Axis = importlib.import_module(f"allot.options.{name}").space
    return found


def all_axes() -> tuple[str, ...]:
    """Names of the axes that exist."""
    found = []
    for module in pkgutil.iter_modules(options.__path__):
        members = vars(importlib.import_module(f"allot.options.{module.name}"))
        if inspect.isfunction(members.get("space")):
            found.append(module.name)
    return tuple(found)


def passes(asked: float | None) -> float | None:
    """The forward passes of `--evaluations`, None for no limit; raises InputError."""
    if asked is not None:
        setup.evaluations(asked)
    return asked


def samples(count: int | None, select: str) -> Samples | None:
    """What `--calibration-samples` and `--select` ask for; raises InputError."""
    if count is None:
        if select:
            raise InputError(f"--select {select} needs --calibration-samples: how many to choose")
        return None
    return Samples(count=count, by=select or WAYS[0])


def pins(texts: Sequence[str]) -> dict[str, str]:
    """Site -> label of texts like "conv1.weight=W8"; raises InputError."""
    found: dict[str, str] = {}
    for text in texts:
        name, equals, label = text.rpartition("=")
        if not (name and equals and label):
            raise InputError(f"--pin {text}: give it as NAME=OPTION, like conv1.weight=W8")
        if found.get(name, label) != label:
            raise InputError(f"--pin {name} is given twice, as {found[name]} and as {label}")
        found[name] = label
    return found


def excludes(texts: Sequence[str]) -> tuple[str, ...]:
    """The patterns, each a name or re: and an expression that compiles; raises InputError."""
    for text in texts:
        try:
            re.compile(text.removeprefix("re:"))
        except re.error as e:
            raise InputError(f"--exclude {text} is no regular expression: {e}") from e
    return tuple(texts)


def others(target: Target) -> tuple[Target, ...]:
    """The runtimes in which a file made for a target is run and timed too: those in float32."""
    timed = (t for t in runtimes.USUAL if "latency" in t.bills and t.tolerance == Target.tolerance)
    return tuple(t for t in timed if t.name != target.name and not t.missing())


def task_of(job: Job, given: str) -> Task:
    """The task of a finished job, or the one given in its place; raises InputError, PlanError."""
    named = given or job.task
    try:
        return tasks.find(named, seed=job.seed)
    except InputError as e:
        if given:
            raise
        raise PlanError(f"the job's task is not to be had: {e}; name it with --task") from e


def job_of(folder: Path) -> Job:
    """The job of a run's folder; raises InputError for a folder that is not there."""
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}")
    return setup.read_job(folder)


def joined(settings: Mapping[str, str]) -> str:
    """Settings as one line: "a=1, b=2"."""
    return ", ".join(f"{k}={v}" for k, v in settings.items())
