"""Faulty: which module of a network is the first to make something that is not finite."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


def first_faulty(network: nn.Module, run: Callable[[], object]) -> str:
    """Name of the first module whose output is not finite while `run` evaluates the network again.

    Inner modules end before those around them, so it is the innermost; "" is the network itself,
    whose modules are all fine.  run: the evaluation, in the same state as the one that failed.
    """
    found: list[str] = []
    handles = []
    for name, module in network.named_modules():

        def note(m: nn.Module, args: Any, out: Any, name: str = name) -> None:
            if not found and not finite(out):
                found.append(name)

        handles.append(module.register_forward_hook(note))
    try:
        with torch.no_grad():
            run()
    finally:
        for h in handles:
            h.remove()
    return found[0] if found else ""


def finite(out: Any) -> bool:
    """Whether every floating-point tensor in a module's output is finite."""
    if isinstance(out, Tensor):
        return not out.is_floating_point() or bool(out.isfinite().all())
    return all(finite(x) for x in out) if isinstance(out, tuple | list) else True
