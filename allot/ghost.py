"""Ghost: a tensor without values; ops on it say what the shape of their result would be."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Memory = dict[Any, Any]


class Ghost(Tensor):
    """A tensor on the meta device whose ops are worked out once per shape and then remembered.

    Torch finds the shapes of many ops in Python, which takes longer than a small layer.  What
    asks for values raises the error of the meta device.  memory: shared with all that is made
    from it.
    """

    memory: Memory

    @classmethod
    def __torch_function__(
        cls,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        with torch._C.DisableTorchFunctionSubclass():
            memory = next((m for x in (*args, *kwargs.values()) for m in _memories(x)), {})
            key = _known((func, args, tuple(kwargs.items())))
            # an op in place may change the shape of what it works on
            lasting = key is not None and not _in_place(func)
            if lasting and key in memory:
                return _ghosts(memory[key], memory)
            found = func(*args, **kwargs)
            # what hands on its own argument has nothing to remember
            if lasting and not isinstance(found, Ghost):
                memory[key] = found
            return _ghosts(found, memory)


def ghost(shape: torch.Size, dtype: torch.dtype, memory: Memory) -> Ghost:
    """A ghost of a shape."""
    with torch._C.DisableTorchFunctionSubclass():
        return _ghosts(torch.empty(shape, dtype=dtype, device="meta"), memory)


def _ghosts(x: Any, memory: Memory) -> Any:
    """Every tensor on the meta device as a ghost of its own; all else as it is."""
    if isinstance(x, Tensor) and x.is_meta and not isinstance(x, Ghost):
        new = x.detach().as_subclass(Ghost)
        new.memory = memory
        return new
    if type(x) in (tuple, list):
        return type(x)(_ghosts(y, memory) for y in x)
    return x


def _in_place(func: Callable[..., Any]) -> bool:
    name = getattr(func, "__name__", "_")
    return name.endswith("_") and not name.endswith("__")


def _memories(x: Any) -> list[Memory]:
    if isinstance(x, Ghost):
        return [x.memory]
    return [m for y in x for m in _memories(y)] if isinstance(x, tuple | list) else []


def _known(x: Any) -> Any:
    """What an argument is known by; None for one that has values or no hash."""
    if isinstance(x, Tensor):
        return (tuple(x.shape), x.stride(), x.dtype) if isinstance(x, Ghost) else None
    if isinstance(x, tuple | list):
        parts = tuple(_known(y) for y in x)
        return None if None in parts else (type(x), parts)
    if isinstance(x, slice):
        return _known((x.start, x.stop, x.step))
    return (type(x), x) if x.__hash__ is not None else None
