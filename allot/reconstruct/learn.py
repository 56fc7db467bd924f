"""Learn: the descent of one unit, its codes and steps soft for a while and hard again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from math import cos, pi

import torch
from torch import Tensor, nn

from allot.reconstruct.held import changed
from allot.reconstruct.losses import Given
from allot.reconstruct.opened import hardened, variables
from allot.reconstruct.soft import Soft
from allot.reconstruct.streams import Call, Standins, mixed, run
from allot.reconstruct.work import Work, until
from allot.sweep import Observer, observed, unwrapped


def loss_of(work: Work, standins: Standins) -> float:
    """The loss with stand-ins as they are, on all that enters from the planned network."""
    with _running(work, standins) as value, torch.no_grad():
        each = [value(i, None) for i in range(len(work.goals))]
    return float(torch.stack(each).double().mean())


def learned(
    work: Work, standins: Standins, soft: Standins, *, start: float, generator: torch.Generator
) -> dict[str, nn.Module]:
    """What soft modules, put in the place of stand-ins, are once they are learned and hard.

    start: the loss before, above 0.
    """
    setting = work.source.setting
    rounded = [m for s in soft.values() if isinstance(m := unwrapped(s), Soft)]
    groups = variables(soft.values(), setting)
    learning = [p for g in groups for p in g["params"]]
    adam = torch.optim.Adam(groups)
    with _running(work, {**standins, **soft}) as value, torch.enable_grad():
        for step, i in enumerate(_order(len(work.goals), setting.steps, generator)):
            done = step / setting.steps
            loss = value(i, generator) / start
            loss = loss + sum(m.undecided(done) for m in rounded) / max(1, len(rounded))
            found = torch.autograd.grad(loss, learning, allow_unused=True, materialize_grads=True)
            for p, g in zip(learning, found, strict=True):
                p.grad = g
            for now in adam.param_groups:
                now["lr"] = now["rate"] * ((1 + cos(pi * done)) / 2 if now["falling"] else 1)
            adam.step()
    return {name: hardened(m) for name, m in soft.items()}


@contextmanager
def _running(
    work: Work, standins: Standins
) -> Iterator[Callable[[int, torch.Generator | None], Tensor]]:
    """The loss of one call (or batch) by its number, with stand-ins in place.

    With a generator, the original's inputs are mixed in.
    """
    source, seen = work.source, list[Tensor]()
    loss, task = source.setting.loss, source.task
    note: list[Observer] = [lambda y: seen.append(y.clone())]

    def value(i: int, generator: torch.Generator | None) -> Tensor:
        seen.clear()
        if loss.whole:
            output = task.forward(model, source.batches[i])
        else:
            output = run(model, work.unit, _entering(work, i, generator))
        given = Given(output=output, inner=tuple(seen))
        return loss.value(given, work.goals[i], task.divergence)

    placed = until(source.bank.graph, work.unit, standins) if loss.whole else standins
    with source.bank.trial(placed) as model:
        with observed(model, {(n, "out"): note for n in work.within}):
            yield value


def _entering(work: Work, i: int, generator: torch.Generator | None) -> Call:
    """A call of the planned network, perhaps with some of the original's inputs.

    Tensors are laid out in the usual order: torch's gradient of a group norm crashes where what
    enters has its channels last and what comes back has not (seen in 2.13).
    """
    found = _mixed(work, i, generator)
    laid: Call = changed(found, Tensor, Tensor.contiguous)
    return laid


def _mixed(work: Work, i: int, generator: torch.Generator | None) -> Call:
    call, share = work.calls[i], work.source.setting.float_inputs
    if generator is None or not work.floats:
        return call
    other = work.floats[i]
    args = mixed(call.args, other.args, share, generator)
    named = mixed(call.named, other.named, share, generator)
    return Call(args=args, named=named, output=call.output)


def _order(n: int, steps: int, generator: torch.Generator) -> list[int]:
    """Numbers below n in random order, all of them once before any again: [steps]."""
    rounds = -(-steps // n)
    found = torch.cat([torch.randperm(n, generator=generator) for _ in range(rounds)])
    return [int(i) for i in found[:steps]]
