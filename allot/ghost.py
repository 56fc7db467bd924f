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
    from it.  home: the device it says it is on, so that what a network makes there apart from
    it (positions, masks) is real.
    """

    memory: Memory
    home: torch.device

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
            like = next((g for x in (*args, *kwargs.values()) for g in _among(x)), None)
            if like is None:
                return func(*args, **kwargs)
            if getattr(func, "__self__", None) is Tensor.device:
                return like.home
            args = tuple(_moved(x, like.home) for x in args)
            kwargs = {k: _moved(x, like.home) for k, x in kwargs.items()}
            key = _known((func, args, tuple(kwargs.items())))
            # an op in place may change the shape of what it works on
            lasting = key is not None and not _in_place(func)
            if lasting and key in like.memory:
                return _ghosts(like.memory[key], like.memory, like.home)
            found = func(*args, **kwargs)
            # what hands on its own argument has nothing to remember
            if lasting and not isinstance(found, Ghost):
                like.memory[key] = found
            return _ghosts(found, like.memory, like.home)


def ghost(shape: torch.Size, dtype: torch.dtype, memory: Memory, home: torch.device) -> Ghost:
    """A ghost of a shape that says it is on a device."""
    with torch._C.DisableTorchFunctionSubclass():
        return _ghosts(torch.empty(shape, dtype=dtype, device="meta"), memory, home)


def _ghosts(x: Any, memory: Memory, home: torch.device) -> Any:
    """Every tensor on the meta device as a ghost of its own; all else as it is."""
    if isinstance(x, Tensor) and x.is_meta and not isinstance(x, Ghost):
        new = x.detach().as_subclass(Ghost)
        new.memory, new.home = memory, home
        return new
    if type(x) in (tuple, list):
        return type(x)(_ghosts(y, memory, home) for y in x)
    return x


def _moved(x: Any, home: torch.device) -> Any:
    """The meta device where a ghost's own is asked for; all else as it is."""
    return torch.device("meta") if isinstance(x, torch.device) and x == home else x


def _in_place(func: Callable[..., Any]) -> bool:
    name = getattr(func, "__name__", "_")
    return name.endswith("_") and not name.endswith("__")


def _among(x: Any) -> list[Ghost]:
    if isinstance(x, Ghost):
        return [x]
    return [g for y in x for g in _among(y)] if isinstance(x, tuple | list) else []


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
