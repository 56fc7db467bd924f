"""Shortcuts: which modules hand on their input along a path that passes through no layer."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from allot.provenance import tensors
from allot.record import is_unit


def shortcuts(
    model: nn.Module,
    names: Collection[str],
    *,
    forward: Callable[[nn.Module, Any], Any],
    example: Any,
) -> dict[str, int]:
    """Those of some modules whose first output is of their first input's shape and depends on it
    past all layers -> entries of the tuple that they return, 0 for a tensor.

    The network runs once under autograd, in which layers and norms hand on no gradient: where an
    output still has one of the input, a path leads past them.  Inner modules end first, so they
    come first.
    """
    watch, handles = _Watch(), []
    try:
        for name, module in model.named_modules():
            if name in names:
                before, after = watch.hooks(name)
                handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
                handles.append(module.register_forward_hook(after))
            elif is_unit(module):
                handles.append(module.register_forward_hook(_cut))
        with torch.enable_grad():
            forward(model, example)
    finally:
        for h in handles:
            h.remove()
    return watch.found


@dataclass(kw_only=True)
class _Watch:
    """marks: module -> its first input, and the node of the autograd graph that hands it on."""

    marks: dict[str, tuple[Tensor, Any]] = field(default_factory=dict)
    found: dict[str, int] = field(default_factory=dict)

    def hooks(self, name: str) -> tuple[Callable[..., Any], Callable[..., None]]:
        def before(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            x = tensors((args, kwargs))[0]
            if not x.is_floating_point():
                return None
            # a copy whose node stands for the module's input, wherever that came from
            new = (x if x.requires_grad else x.detach().requires_grad_()).clone()
            self.marks[name] = (x, new.grad_fn)
            named = {k: new if v is x else v for k, v in kwargs.items()}
            return tuple(new if v is x else v for v in args), named

        def after(module: nn.Module, args: Any, output: Any) -> None:
            first = output[:1] if isinstance(output, tuple) else (output,)
            if name in self.marks and first and isinstance(first[0], Tensor):
                x, node = self.marks[name]
                alike = first[0].shape == x.shape and first[0].dtype == x.dtype
                if alike and _leads(first[0].grad_fn, node):
                    self.found[name] = len(output) if isinstance(output, tuple) else 0

        return before, after


def _cut(module: nn.Module, args: Any, output: Tensor) -> Tensor:
    return output.detach()


def _leads(start: Any, goal: Any) -> bool:
    """Whether one node of the autograd graph has another one behind it."""
    todo, seen = [start], set()
    while todo:
        node = todo.pop()
        if node is goal:
            return True
        if node is not None and node not in seen:
            seen.add(node)
            todo.extend(n for n, _ in node.next_functions)
    return False
