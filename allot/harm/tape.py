"""Tape: tensors at module boundaries as one run sees them, and what the outputs feel of them."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from allot.bank import Bank
from allot.provenance import tensors

# (module, "in" | "out"): the first input or the (first) output of a module
Place = tuple[str, str]


@dataclass(frozen=True, kw_only=True, eq=False)
class Arguments:
    """What a module was called with; the tensor it works on is the first among them."""

    args: tuple[Any, ...]
    named: dict[str, Any]

    @property
    def first(self) -> Tensor:
        return tensors((self.args, self.named))[0]

    def beginning(self, x: Tensor) -> Arguments:
        """The same with another first tensor."""
        old = self.first
        args = tuple(x if a is old else a for a in self.args)
        named = {k: x if a is old else a for k, a in self.named.items()}
        return Arguments(args=args, named=named)

    def run(self, module: nn.Module) -> Tensor:
        return first(module(*self.args, **self.named))


def first(output: Any) -> Tensor:
    """The tensor that a module puts out, or the first of several."""
    found: Tensor = output[0] if isinstance(output, tuple) else output
    return found


@dataclass(kw_only=True, eq=False)
class Tape:
    """Of one batch, per call of a module: arguments, outputs, and gradients of every draw.

    leaves: tensors that were cut from what came before; gradients reach as far back as these.
    """

    arguments: dict[str, list[Arguments]] = field(default_factory=dict)
    outputs: dict[str, list[Tensor]] = field(default_factory=dict)
    gradients: dict[Place, list[list[Tensor]]] = field(default_factory=dict)
    leaves: list[Tensor] = field(default_factory=list)

    def values(self, place: Place) -> list[Tensor]:
        """The tensor at a place, one per call: [n, ...] each."""
        name, role = place
        return [a.first for a in self.arguments[name]] if role == "in" else self.outputs[name]

    def differentiate(self, output: Tensor, directions: Tensor) -> None:
        """Gradients of <direction, output> at every marked place, for directions [m, n, ...]."""
        for k, direction in enumerate(directions if self.leaves else ()):
            torch.autograd.grad(
                output,
                self.leaves,
                direction.to(output),
                retain_graph=k + 1 < len(directions),
                allow_unused=True,
            )


@contextmanager
def taped(
    bank: Bank, *, watched: Collection[Place], marked: Collection[Place] = ()
) -> Iterator[Tape]:
    """Runs of the bank's skeleton are recorded at the watched places for a while.

    At the marked places gradients are recorded too when `differentiate` is called.  Every hook is
    removed at the end.
    """
    tape, handles = Tape(), []
    try:
        for name in dict.fromkeys(n for n, _ in (*watched, *marked)):
            roles = {r for n, r in watched if n == name}
            module, marks = bank.module(name), {r for n, r in marked if n == name}
            before = _before(tape, name, keep="in" in roles, mark="in" in marks)
            handles.append(module.register_forward_pre_hook(before, with_kwargs=True))
            after = _after(tape, name, keep="out" in roles, mark="out" in marks)
            handles.append(module.register_forward_hook(after))
        yield tape
    finally:
        for h in handles:
            h.remove()


def _before(tape: Tape, name: str, *, keep: bool, mark: bool) -> Any:
    def hook(module: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
        given = Arguments(args=args, named=named)
        if keep:
            # a copy, since what follows may work in place
            copied = given.first.detach().clone()
            tape.arguments.setdefault(name, []).append(given.beginning(copied))
        if not mark:
            return None
        # a copy of its own, so that only what this module makes of it is felt
        given = given.beginning(_marked(tape, (name, "in"), given.first.clone()))
        return given.args, given.named

    return hook


def _after(tape: Tape, name: str, *, keep: bool, mark: bool) -> Any:
    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        y = first(output)
        if keep:
            tape.outputs.setdefault(name, []).append(y.detach().clone())
        if not mark:
            return None
        y = _marked(tape, (name, "out"), y)
        return (y, *output[1:]) if isinstance(output, tuple) else y

    return hook


def _marked(tape: Tape, place: Place, x: Tensor) -> Tensor:
    """The tensor, whose gradients will be written down in the order of the draws."""
    if not x.requires_grad:
        leaf = x.detach().requires_grad_()
        tape.leaves.append(leaf)
        x = leaf.clone()  # a leaf may not be changed in place by what follows
    found: list[Tensor] = []
    tape.gradients.setdefault(place, []).append(found)
    x.register_hook(lambda g: found.append(g.detach()))
    return x
