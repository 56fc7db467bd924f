"""Planned: a sampler with some of its steps and layers replaced; the one it was stays as it is."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

from torch import nn

from allot.samplers.graph import PREFIX
from allot.sampling.sampler import Sampler


@dataclass(frozen=True, kw_only=True, eq=False)
class Planned:
    """What was made of a sampler.

    sampler: with the stand-ins in place; what has none is shared with the one it was made of.
    standins: "steps.3" or "denoiser.NAME" -> module, as a bank takes them.  found: what was fitted
    on the way and tells how far to trust it.
    """

    sampler: Sampler
    standins: Mapping[str, nn.Module]
    found: Mapping[str, float] = field(default_factory=dict)


def planned(
    sampler: Sampler, standins: Mapping[str, nn.Module], found: Mapping[str, float] | None = None
) -> Planned:
    """The sampler's network and grid with other steps; the sampler itself stays as it is.

    standins: of steps alone.
    """
    new = Sampler(
        denoiser=sampler.denoiser, grid=sampler.grid, guidance=sampler.guidance, spans=sampler.spans
    )
    new.steps = nn.ModuleList(sampler.steps)
    for name, module in standins.items():
        new.steps[int(name.removeprefix("steps."))] = module
    return Planned(sampler=new, standins=dict(standins), found=dict(found or {}))


def with_layers(plan: Planned, layers: Mapping[str, nn.Module]) -> Planned:
    """The plan with "denoiser.NAME" layers put into a network of its own."""
    old = plan.sampler
    network = copy.deepcopy(old.denoiser)
    for name, layer in layers.items():
        parent, _, child = name.removeprefix(PREFIX).rpartition(".")
        network.get_submodule(parent)._modules[child] = copy.deepcopy(layer)
    new = Sampler(denoiser=network, grid=old.grid, guidance=old.guidance, spans=old.spans)
    new.steps = old.steps
    return Planned(sampler=new, standins={**plan.standins, **layers}, found=plan.found)
