"""Work: one unit with what enters it and what it should give."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from allot.bank import Bank
from allot.errors import InputError
from allot.provenance import tensors
from allot.reconstruct.losses import Goal
from allot.reconstruct.setting import Reconstruction
from allot.reconstruct.streams import Call, Standins, calls, squared_gradients
from allot.reconstruct.units import Unit, inside
from allot.site import Graph
from allot.task import Inputs, Task, take


@dataclass(frozen=True, kw_only=True, eq=False)
class Source:
    """What all units share.  batches: calibration inputs.  finals: the original's outputs for
    them, where the loss looks at these, else ()."""

    bank: Bank
    task: Task
    setting: Reconstruction
    batches: tuple[Inputs, ...]
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
    calls: tuple[Call, ...] = ()
    floats: tuple[Call, ...] = ()
    goals: tuple[Goal, ...]
    within: tuple[str, ...] = ()


def source(bank: Bank, task: Task, setting: Reconstruction, *, seed: int) -> Source:
    """The first samples of the calibration data in batches drawn by seed."""
    samples = min(setting.samples, len(task.calibrate))
    order = torch.randperm(samples, generator=torch.Generator().manual_seed(seed))
    indices = order.split(setting.batch)
    batches = tuple(take(task.calibrate.inputs, i) for i in indices)
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
        goals = tuple(Goal(output=f) for f in source.finals)
        return Work(source=source, unit=unit, goals=goals)
    within = _points(source.bank.graph, unit) if loss.inner else ()
    floats = tuple(_entering(source, unit, {}, within))
    planned = []
    for i, call in enumerate(_entering(source, unit, standins, within)):
        _check_shapes(unit, floats[i], call)
        planned.append(replace(call, output=call.output[:0], inner=()))
    goals = tuple(Goal(output=c.output, inner=c.inner) for c in floats)
    if loss.weighted:
        goals = tuple(_weighted(source, unit, standins, goals))
    mixing = source.setting.float_inputs > 0
    return Work(
        source=source, unit=unit, calls=tuple(planned), floats=floats if mixing else (),
        goals=goals, within=within,
    )  # fmt: skip


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
        found = list(squared_gradients(source.task, model, unit, source.batches, source.finals))
    mean = sum(float(g.double().sum()) for g in found) / sum(g.numel() for g in found)
    for goal, g in zip(goals, found, strict=True):
        yield replace(goal, weight=g / mean if mean > 0 else g)


def _points(graph: Graph, unit: Unit) -> tuple[str, ...]:
    """Layers in a unit, or the norms behind them."""
    own = set(inside(graph, unit))
    return tuple(x.norm or x.module for x in graph.layers if x.module in own)


def _check_shapes(unit: Unit, original: Call, planned: Call) -> None:
    for a, b in zip(tensors(vars(original)), tensors(vars(planned)), strict=True):
        if a.shape != b.shape:
            raise InputError(
                f"the plan leaves out channels or tokens at {unit[0]}: {list(b.shape)} where the "
                f"original has {list(a.shape)}; reconstruct units whose borders are whole"
            )
