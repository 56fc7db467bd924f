"""Folded time: modules that depend on time and class alone, as tables over the steps of a plan."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from allot.errors import InputError, ModelError
from allot.rewrites.layers import put
from allot.sampling.features import Seeds
from allot.sampling.moment import Moment, Request, told
from allot.sampling.nested import hollow, tensors
from allot.sampling.sampler import Sampler, Step
from allot.sampling.step_table import StepTable, Unread

CLASS = "class_labels"


@dataclass(frozen=True, kw_only=True, eq=False)
class TimeOnly:
    """What modules that depend on time and class alone give. tables: name -> as a module to stand
    in.  read: names that something else than these modules reads."""

    tables: Mapping[str, StepTable]
    read: tuple[str, ...]


def folded(sampler: Sampler, names: Sequence[str], seeds: Seeds, *, by: str = CLASS) -> Sampler:
    """A copy of the sampler in which modules are tables; those that nothing reads then are gone.

    The original's MACs of these layers vanish and their weights with them; the tables count with 4
    bytes a value in `Graph.loose`.  It samples on its own steps and for classes of the seeds only;
    options that step tables take part in are folded in, as the steps' ways are.  Raises what
    `time_only_values` raises.
    """
    found = time_only_values(sampler, names, seeds, by=by)
    network = copy.deepcopy(sampler.denoiser)
    for name in names:
        table = found.tables[name]
        put(network, name, table if name in found.read else _unread(table, 0.0))
    return around(sampler, network)


def time_only_values(
    sampler: Sampler, names: Sequence[str], seeds: Seeds, *, by: str = CLASS
) -> TimeOnly:
    """Tables of modules over all steps, and which of them are read.

    names: outermost ones (`families.diffusion.time_only`).  seeds: some noises, with every class
    among their conditions.  Raises InputError without names, ModelError where a module depends on
    more than time and class, or gives different things in one evaluation.
    """
    if not names:
        raise InputError("no module is named that depends on time and class alone")
    x, conditions, keys = _classes(sampler, seeds, by)
    rows: dict[str, list[list[Tensor]]] = {n: [] for n in names}
    shapes: dict[str, Any] = {}
    for i in range(len(sampler.grid)):
        seen = _evaluated(sampler, i, x, conditions, names)
        for name, value in seen.items():
            shapes[name] = hollow(value)
            rows[name].append(tensors(value))
    other = _evaluated(sampler, 0, x.flip(0) - 1.0, conditions, names)
    for name in names:
        for a, b in zip(rows[name][0], tensors(other[name]), strict=True):
            if not torch.equal(a, b):
                raise ModelError(f"{name} depends on more than time and {by}; leave it out")
    times = torch.tensor(sampler.grid.times, dtype=torch.float64)
    tables = {
        n: StepTable(
            values=[torch.stack(v) for v in zip(*rows[n], strict=True)], shape=shapes[n],
            times=times, keys=keys, by=by,
        )
        for n in names
    }  # fmt: skip
    return TimeOnly(tables=tables, read=_read(sampler, tables, x, conditions))


def _classes(
    sampler: Sampler, seeds: Seeds, by: str
) -> tuple[Tensor, dict[str, Tensor], Tensor | None]:
    """One row for every class, the one without condition among them: x, conditions, classes."""
    if by not in seeds.conditions:
        return seeds.noise[:1], {k: v[:1] for k, v in seeds.conditions.items()}, None
    labels = seeds.conditions[by]
    keys = labels.unique()
    without = None if sampler.guidance is None else sampler.guidance.without.get(by)
    if without is not None:
        keys = torch.cat([keys, torch.as_tensor(without).flatten().to(keys)]).unique()
    # of the class that stands for none there may be no row: what else it is told is any row's
    first = torch.tensor([int((labels == k).long().argmax()) for k in keys])
    told = {k: v[first] for k, v in seeds.conditions.items()}
    return seeds.noise[first], {**told, by: keys}, keys


def _evaluated(
    sampler: Sampler,
    step: int,
    x: Tensor,
    conditions: Mapping[str, Tensor],
    names: Sequence[str],
) -> dict[str, Any]:
    """What modules give in one evaluation, at the bits of the sampler's step."""
    with torch.no_grad(), _told(sampler, step, conditions), _noted(sampler.denoiser, names) as seen:
        time = torch.full((len(x),), sampler.grid.level(step).time, device=x.device)
        sampler.denoiser(x, time, **conditions)
    return seen


@contextmanager
def _told(sampler: Sampler, step: int, conditions: Mapping[str, Tensor]) -> Iterator[None]:
    way = sampler.steps[step]
    moment = Moment(
        step=step, level=sampler.grid.level(step), request=Request(),
        bits=way.way.bits if isinstance(way, Step) else None, conditions=conditions,
    )  # fmt: skip
    with told(sampler.denoiser, moment):
        yield


@contextmanager
def _noted(network: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What modules give, for a while."""
    seen: dict[str, Any] = {}
    handles = []
    for name in names:

        def note(m: nn.Module, args: Any, out: Any, name: str = name) -> None:
            for a, b in zip(tensors(seen.get(name, out)), tensors(out), strict=True):
                if not torch.equal(a, b):
                    raise ModelError(f"{name} gives different things in one evaluation")
            seen[name] = out

        handles.append(network.get_submodule(name).register_forward_hook(note))
    try:
        yield seen
    finally:
        for h in handles:
            h.remove()


def _read(
    sampler: Sampler,
    tables: Mapping[str, StepTable],
    x: Tensor,
    conditions: Mapping[str, Tensor],
) -> tuple[str, ...]:
    """Tables without which the network's output is not what it is: NaN put there reaches it."""
    network = copy.deepcopy(sampler.denoiser)
    for name, table in tables.items():
        put(network, name, table)
    trial, found = around(sampler, network), []
    for name, table in tables.items():
        put(network, name, _unread(table, torch.nan))
        with torch.no_grad(), _told(trial, 0, conditions):
            time = torch.full((len(x),), sampler.grid.level(0).time, device=x.device)
            if not bool(network(x, time, **conditions).isfinite().all()):
                found.append(name)
        put(network, name, table)
    return tuple(found)


def _unread(table: StepTable, fill: float) -> Unread:
    shapes = [table.get_buffer(f"values_{i}").shape[2:] for i in range(table.count)]
    return Unread(shapes=shapes, shape=table.shape, fill=fill)


def around(sampler: Sampler, network: nn.Module) -> Sampler:
    """The sampler's steps, as they are taken, around another network."""
    new = Sampler(
        denoiser=network, grid=sampler.grid, guidance=sampler.guidance, spans=sampler.spans
    )
    new.steps = sampler.steps
    return new.eval()
