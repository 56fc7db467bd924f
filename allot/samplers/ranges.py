"""Ranges: for every step of a sampler a fixed range of each tensor, found along its own runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn

from allot.calibrate import calibrate
from allot.errors import InputError
from allot.num.activation_ranges import ActivationRange, MinMax
from allot.num.affine import Range
from allot.num.formats import Grid
from allot.options.stepped import Stepped, stepped
from allot.options.tensors import ActivationFormat, seen_whole
from allot.samplers.trajectory import Visited
from allot.sampling.grid import Grid as Levels
from allot.site import Graph
from allot.task import Data, Task

WHOLE = MinMax()


def step_tables(
    network: nn.Module,
    graph: Graph,
    seen: Visited,
    *,
    levels: Levels,
    sites: Iterable[str],
    grid: Grid,
    rule: ActivationRange = WHOLE,
) -> dict[str, Stepped]:
    """Site -> its table over the steps (TFMQ-DM, Huang et al. 2024; EfficientDM, He et al. 2024).

    network: the denoiser that the graph is of, its tensors in float, its weights perhaps not.
    seen: evaluations along runs of the sampler, of the compressed one where its ranges are wanted.
    levels: the sampler's, which the tables are bound to.  A step that no evaluation is of has the
    range of the step before it, or of the first one seen.  Raises InputError where none is seen.
    """
    option = ActivationFormat(grid=grid, ranges=rule)
    needs = {name: option.needs(graph.site(name), graph) for name in sites}
    wanted = [s for group in needs.values() for s in group]
    found: dict[str, dict[int, Range]] = {name: {} for name in needs}
    for step in range(len(levels)):
        some = seen.rows(seen.step == step)
        if not len(some):
            continue
        stats = calibrate(_task(network, some), network, wanted)
        for name, group in needs.items():
            states = {s: stats[s].cpu() for s in group}
            found[name][step] = rule.fit(seen_whole(states), grid)
    return {
        name: stepped(_filled(table, len(levels)), grid, times=levels.times)
        for name, table in found.items()
    }


def _task(network: nn.Module, some: Visited) -> Task:
    data = Data(inputs=some.inputs)
    return Task(name="step", model=network, calibrate=data, search=data, certify=data)


def _filled(table: Mapping[int, Range], steps: int) -> list[Range]:
    """A range for every step."""
    if not table:
        raise InputError("ranges of steps are found on evaluations at some steps; there are none")
    found, last = [], table[min(table)]
    for step in range(steps):
        last = table.get(step, last)
        found.append(last)
    return found
