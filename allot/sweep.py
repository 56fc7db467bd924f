"""Sweep: run a network over data with observers at module boundaries; leaves no trace."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from allot.task import Data, Task

# observer(tensor) at (module, "in" | "out"); what it returns (if anything) takes the tensor's place
Observer = Callable[[Tensor], Tensor | None]


def find(model: nn.Module, name: str) -> nn.Module:
    """The module of a name of the original network, seen through wrappers around containers."""
    module = model
    for part in name.split(".") if name else ():
        module = getattr(unwrapped(module), part)
    return module


def left_out(model: nn.Module, name: str) -> bool:
    """Whether the module of a name lies inside a block that a plan leaves out (`is_left_out`)."""
    module = model
    for part in name.split(".") if name else ():
        module = unwrapped(module)
        if getattr(module, "is_left_out", False):
            return True
        module = getattr(module, part)
    return False


def unwrapped(module: nn.Module) -> nn.Module:
    """What stands inside any wrappers (modules with `is_wrapper` and `inner`)."""
    while getattr(module, "is_wrapper", False):
        inner = module.inner
        assert isinstance(inner, nn.Module)
        module = inner
    return module


def rewrapped(module: nn.Module, inner: nn.Module) -> nn.Module:
    """`inner` inside the same wrappers as stand around `module`; neither argument changes."""
    if not getattr(module, "is_wrapper", False):
        return inner
    new = copy.copy(module)
    new._modules = {**module._modules, "inner": rewrapped(module.inner, inner)}  # type: ignore
    return new


@contextmanager
def observed(
    model: nn.Module, observers: Mapping[tuple[str, str], Sequence[Observer]]
) -> Iterator[None]:
    """Observers at (module, "in" | "out") for a while; every hook is removed at the end.

    Those inside a block that is left out see nothing.
    """
    handles = []
    try:
        for (name, role), group in observers.items():
            if left_out(model, name):
                continue
            module = unwrapped(find(model, name))
            if role == "in":
                handles.append(module.register_forward_pre_hook(_before(group)))
            else:
                handles.append(module.register_forward_hook(_after(group)))
        yield
    finally:
        for h in handles:
            h.remove()


def _before(group: Sequence[Observer]) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...]) -> Any:
        if not args:  # called by keywords only: there is no first input to see
            return None
        x = args[0]
        for observer in group:
            new = observer(x)
            x = x if new is None else new
        return (x, *args[1:])

    return hook


def _after(group: Sequence[Observer]) -> Callable[..., Any]:
    def hook(module: nn.Module, args: tuple[Any, ...], output: Tensor) -> Any:
        for observer in group:
            new = observer(output)
            output = output if new is None else new
        return output

    return hook


def outputs(
    task: Task, model: nn.Module, data: Data, *, batch: int, each: Iterable[Any] | None = None
) -> Tensor:
    """Outputs of the network for every sample of the data, in order: [n, ...]."""
    with torch.no_grad():
        batches = data.batches(batch) if each is None else each
        return torch.cat([task.forward(model, b) for b in batches])
