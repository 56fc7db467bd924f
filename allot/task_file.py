"""Task file: the task that a command names, as FILE.py:FUNCTION or as a built-in name."""

from __future__ import annotations

import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from allot import builtin
from allot.errors import InputError
from allot.task import Task


def find(name: str, *, seed: int = 0) -> Task:
    """The task of a name like "digits-resnet" or "mine.py:task".

    A built-in task draws its sets by seed.  A file's code is run, with its folder on the path
    as when Python runs a file, and the function is called without arguments.

    Raises InputError for a file or function that is not there, one that wants arguments or one
    that returns something other than a Task; what the file itself raises goes through.
    """
    file, colon, function = name.rpartition(":")
    if colon:
        return _called(_function(Path(file), function), name)
    if name.endswith(".py"):
        raise InputError(f"{name} names no function; give {name}:FUNCTION")
    return builtin.load(name, seed)


def _function(path: Path, name: str) -> Callable[[], object]:
    if not path.is_file():
        raise InputError(f"there is no file {path}; a task is given as FILE.py:FUNCTION")
    module = _run(path)
    found = vars(module).get(name)
    if callable(found):
        return found  # type: ignore[no-any-return]
    own = [k for k, v in vars(module).items() if _is_own(v, module)]
    raise InputError(f"{path} has no function {name!r}; it has {', '.join(own) or 'none'}")


def _is_own(value: object, module: ModuleType) -> bool:
    return inspect.isfunction(value) and value.__module__ == module.__name__


def _run(path: Path) -> ModuleType:
    """The module that a file's code makes."""
    spec = importlib.util.spec_from_file_location(f"task_file_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is no Python file; a task is given as FILE.py:FUNCTION")
    module = importlib.util.module_from_spec(spec)
    folder = str(path.resolve().parent)
    if folder not in sys.path:
        sys.path.insert(0, folder)
    # dataclasses look up their module by name while it runs
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _called(function: Callable[[], object], name: str) -> Task:
    try:
        inspect.signature(function).bind()
    except TypeError as e:
        raise InputError(f"{name} cannot be called without arguments: {e}") from e
    task = function()
    if not isinstance(task, Task):
        raise InputError(f"{name} returned {type(task).__name__}; it should return an allot.Task")
    return task
