"""Networks of the benchmark, three of each kind, by name."""

from __future__ import annotations

from pathlib import Path

from allot.errors import InputError
from allot.task import Task
from benchmarks.search import digits, languages, resnets, vits

DIGITS = ("digits0", "digits1", "digits2")
RESNETS = tuple(resnets.NETWORKS)
VITS, LANGUAGES = vits.NETWORKS, languages.NETWORKS


def task(name: str, folder: Path) -> Task:
    """The task of a network; trained and kept in the folder where it is neither there nor given.

    Its search set is what searchers see, its certify set the held-out samples.  Raises
    MissingError for what is not installed or not there, InputError for an unknown name.
    """
    if name in DIGITS:
        return digits.task(DIGITS.index(name), folder)
    for names, make in ((RESNETS, resnets), (VITS, vits), (LANGUAGES, languages)):
        if name in names:
            return make.task(name, folder)
    known = ", ".join((*DIGITS, *RESNETS, *VITS, *LANGUAGES))
    raise InputError(f"no network {name!r}; there are {known}")


def predictions(task: Task) -> int:
    """Predictions of each sample that the metric counts: tokens of a window, or 1."""
    labels = task.search.labels
    assert labels is not None
    return labels[0].numel()
