"""Tasks that come with allot: a name -> a trained network and its data."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from allot.builtin import digits_resnet
from allot.errors import InputError
from allot.task import Task

TASKS: Mapping[str, Callable[[int], Task]] = MappingProxyType({"digits-resnet": digits_resnet.task})


def load(name: str, seed: int = 0) -> Task:
    """The built-in task of that name, its sets drawn by seed.

    Raises InputError for an unknown name, MissingError where its data's library is absent.
    """
    if name not in TASKS:
        raise InputError(
            f"no built-in task {name!r}; there are: {', '.join(sorted(TASKS))}; "
            "a task of your own is given as FILE.py:FUNCTION"
        )
    return TASKS[name](seed)
