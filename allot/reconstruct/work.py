"""Work: one unit with what enters it and what it should give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from allot.bank import Bank
from allot.errors import InputError
from allot.provenance import tensors
from allot.reconstruct.held import Batches, Held
from allot.reconstruct.losses import Goal
from allot.reconstruct.setting import Reconstruction
from allot.reconstruct.streams import Call, Standins, calls, squared_gradients
from allot.reconstruct.units import Unit, inside
from allot.site import Graph
from allot.task import Inputs, Task


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """What all units share.  batches: calibration inputs.  finals: the original's outputs for
    them, where the loss looks at these, else ()."""

    bank: Bank
    task: Task
    setting: Reconstruction
    batches: Sequence[Inputs]
    finals: tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True, eq=False)
class Work:
    """A unit with what enters it and what it should give.

    calls: of the planned network.  floats: those of the original where they are mixed in, else ().
    goals: one for every call, or for every batch where the loss is of the network's output.
    within: modules whose outputs the loss looks at too.
    """

    source: Source
    unit: Unit
    calls: Sequence[Call] = ()
    floats: Sequence[Call] = ()
    goals: Sequence[Goal]
    within: tuple[str, ...] = ()


def source(bank: Bank, task: Task, setting: Reconstruction, *, seed: int) -> Source:
    """The first samples of the calibration data in batches drawn by seed."""
    samples = min(setting.samples, len(task.calibrate))
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed))
    batches = Batches(task.calibrate.inputs, order.split(setting.batch))
    finals: tuple[Tensor, ...] = ()
    if setting.loss.whole or setting.loss.weighted:
        with torch.no_grad():
            finals = tuple(task.forward(bank.skeleton, b) for b in batches)
    return Source(bank=bank, task=task, setting=setting, batches=batches, finals=finals)


def work(source: Source, unit: Unit, standins: Standins) -> Work:
    """What enters a unit and what it should give, from one run of each network up to it.

    Raises InputError where a plan leaves out channels or tokens that the original gives.
    """
    loss = source.setting.loss
    if loss.whole:
        finals = tuple(Goal(output=f) for f in source.finals)
        return Work(source=source, unit=unit, goals=finals)
    within = _points(source.bank.graph, unit) if loss.inner else ()
    mixing = source.setting.float_inputs > 0
    goals, floats, planned = Held[Goal](), Held[Call](), Held[Call]()
    shapes = []
    for call in _entering(source, unit, {}, within):
        goals.append(Goal(output=call.output, inner=call.inner))
        shapes.append(_shapes(call))
        if mixing:
            floats.append(_entry(call))
    for i, call in enumerate(_entering(source, unit, standins, within)):
        _check_shapes(unit, shapes[i], _shapes(call))
        planned.append(_entry(call))
    return Work(
        source=source, unit=unit, calls=planned, floats=floats,
        goals=Held(_weighted(source, unit, standins, goals)) if loss.weighted else goals,
        within=within,
    )  # fmt: skip


def _entry(call: Call) -> Call:
    """A call without what came of it."""
    return replace(call, output=call.output.new_empty(0), inner=())


def _shapes(call: Call) -> list[torch.Size]:
    return [x.shape for x in tensors(vars(call))]


def until(graph: Graph, unit: Unit, standins: Standins) -> dict[str, nn.Module]:
    """The stand-ins of modules that have started once a unit ends."""
    last = max(i for i, (name, _) in enumerate(graph.order) if name == unit[-1])
    started = {name for name, _ in graph.order[:last]}
    return {n: m for n, m in standins.items() if n in started}


def _entering(
    source: Source, unit: Unit, standins: Standins, within: Sequence[str]
) -> Iterator[Call]:
    times = source.bank.graph.order.count((unit[0], "start"))
    with source.bank.trial(standins) as model:
        yield from calls(source.task, model, unit, source.batches, inner=within, times=times)


def _weighted(
    source: Source, unit: Unit, standins: Standins, goals: Sequence[Goal]
) -> Iterator[Goal]:
    """Goals with squared gradients of mean 1; all 0 where nothing is lost yet."""
    reached = until(source.bank.graph, unit, standins)
    with source.bank.trial(reached) as model:
        found = Held(squared_gradients(source.task, model, unit, source.batches, source.finals))
    mean = sum(float(g.double().sum()) for g in found) / sum(g.numel() for g in found)
    for goal, g in zip(goals, found, strict=True):
        yield replace(goal, weight=g / mean if mean > 0 else g)


def _points(graph: Graph, unit: Unit) -> tuple[str, ...]:
    """Layers in a unit, or the norms behind them."""
    own = set(inside(graph, unit))
    return tuple(x.norm or x.module for x in graph.layers if x.module in own)


def _check_shapes(
    unit: Unit, original: Sequence[torch.Size], planned: Sequence[torch.Size]
) -> None:
    for a, b in zip(original, planned, strict=True):
        if a != b:
            raise InputError(
                f"the plan leaves out channels or tokens at {unit[0]}: {list(b)} where the "
                f"original has {list(a)}; reconstruct units whose borders are whole"
            )
