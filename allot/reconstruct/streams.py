"""Streams: what enters and leaves a unit while a network runs, held for one unit at a time.

A network's forward is opaque, so it runs from its inputs, in fixed small batches, and is stopped
behind the unit.  Kept, in files (`held`), are the inputs of the unit (twice where the original's
are mixed in), its targets, and what a loss asks for besides: nothing of any other unit, and in
memory what one batch makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from allot.errors import InputError
from allot.provenance import tensors
from allot.reconstruct.draw import drawn
from allot.reconstruct.units import Unit
from allot.sweep import Observer, find, observed, unwrapped
from allot.task import Inputs, Task

Standins = Mapping[str, nn.Module]


@dataclass(frozen=True, kw_only=True, eq=False)
class Call:
    """One call of a unit: arguments, the first tensor it gave, outputs of modules asked for."""

    args: tuple[Any, ...]
    named: dict[str, Any]
    output: Tensor
    inner: tuple[Tensor, ...] = ()


class _Behind(Exception):
    """Ends a forward whose rest is not wanted."""


def outermost(model: nn.Module, name: str) -> nn.Module:
    """What stands at a name of the original network, with any wrappers."""
    above, _, child = name.rpartition(".")
    module = getattr(unwrapped(find(model, above)), child)
    assert isinstance(module, nn.Module)
    return module


def calls(
    task: Task,
    model: nn.Module,
    unit: Unit,
    batches: Sequence[Inputs],
    *,
    inner: Sequence[str] = (),
    times: int = 1,
) -> Iterator[Call]:
    """Every call of a unit while the network runs over batches, each ended behind the unit.

    inner: modules whose outputs are kept too.  times: how often the unit is called in one forward.
    The tensors are copies.  Raises InputError for a unit of several modules that do not follow one
    another.
    """
    for batch in batches:
        found: list[Call] = []
        with _watching(model, unit, inner, found, times), torch.no_grad():
            try:
                task.forward(model, batch)
            except _Behind:
                pass
        yield from found


@contextmanager
def _watching(
    model: nn.Module, unit: Unit, inner: Sequence[str], found: list[Call], times: int
) -> Iterator[None]:
    """Calls of a unit are noted for a while; the forward ends behind the last of them."""
    passed: list[Any] = []
    within: list[Tensor] = []

    def enter(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        passed[:] = [mapped(args, _copied), mapped(named, _copied)]

    def follow(module: nn.Module, args: tuple[Any, ...]) -> None:
        if not args or args[0] is not passed[-1]:
            raise InputError(
                f"the modules {', '.join(unit)} do not follow one another, the output of each "
                "the first input of the next; name a module that holds them"
            )

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        first = _copied(tensors(output)[0])
        found.append(Call(args=passed[0], named=passed[1], output=first, inner=tuple(within)))
        within.clear()
        if len(found) == times:
            raise _Behind

    modules = [outermost(model, n) for n in unit]
    watch: list[Observer] = [lambda y: within.append(_copied(y))]
    handles = []
    # before `leave`, behind which nothing is seen
    with observed(model, {(n, "out"): watch for n in inner}):
        try:
            handles.append(modules[0].register_forward_pre_hook(enter, with_kwargs=True))
            for one, other in pairwise(modules):
                handles.append(one.register_forward_hook(lambda m, a, y: passed.append(y)))
                handles.append(other.register_forward_pre_hook(follow))
            handles.append(modules[-1].register_forward_hook(leave))
            yield
        finally:
            for h in handles:
                h.remove()


def squared_gradients(
    task: Task, model: nn.Module, unit: Unit, batches: Sequence[Inputs], finals: Sequence[Tensor]
) -> Iterator[Tensor]:
    """Squared gradient of every sample's divergence with respect to a unit's output, per call.

    finals: outputs of the original for the batches.
    """
    for batch, final in zip(batches, finals, strict=True):
        leaves: list[Tensor] = []

        def cut(module: nn.Module, args: tuple[Any, ...], output: Any) -> Any:
            first = tensors(output)[0]
            leaves.append(first.detach().requires_grad_())  # noqa: B023 - called in this round
            # a copy: what follows may change it in place
            return swapped_first(output, leaves[-1].clone())  # noqa: B023

        handle = outermost(model, unit[-1]).register_forward_hook(cut)
        try:
            with torch.enable_grad():
                lost = task.divergence(final, task.forward(model, batch)).sum()
        finally:
            handle.remove()
        for g in torch.autograd.grad(lost, leaves, materialize_grads=True):
            yield g.square()


def swapped_first(output: Any, new: Tensor) -> Any:
    """What a module gave, with another first tensor; tuples and lists of it."""
    if isinstance(output, Tensor):
        return new
    return type(output)([swapped_first(output[0], new), *output[1:]])


def run(model: nn.Module, unit: Unit, call: Call) -> Tensor:
    """The first tensor that a unit gives for the arguments of a call."""
    value = outermost(model, unit[0])(
        # a unit may change its input in place
        *mapped(call.args, torch.clone),
        **mapped(call.named, torch.clone),
    )
    for name in unit[1:]:
        value = outermost(model, name)(value)
    return tensors(value)[0]


def mapped(value: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """Nested arguments with every tensor changed; what is neither nested nor tensor stays."""
    if isinstance(value, Tensor):
        return change(value)
    if type(value) in (tuple, list):
        return type(value)(mapped(v, change) for v in value)
    if type(value) is dict:
        return {k: mapped(v, change) for k, v in value.items()}
    return value


def mixed(value: Any, other: Any, share: float, generator: torch.Generator) -> Any:
    """Nested arguments in which a share of the elements of every float tensor is the other's."""
    if isinstance(value, Tensor):
        if not value.is_floating_point() or share == 0:
            return value
        taken = drawn(value.shape, share, generator)
        return torch.where(taken.to(value.device), other, value)
    if type(value) in (tuple, list):
        pairs = zip(value, other, strict=True)
        return type(value)(mixed(v, o, share, generator) for v, o in pairs)
    if type(value) is dict:
        return {k: mixed(v, other[k], share, generator) for k, v in value.items()}
    return value


def _copied(x: Tensor) -> Tensor:
    return x.detach().clone()
