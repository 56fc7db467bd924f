"""Graph: the sites of a sampler: those of one evaluation of its network, and one at every step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from torch import Tensor, nn

from allot.sampling.grid import Grid
from allot.sampling.sampler import Sampler
from allot.site import Graph, Site, Touch
from allot.trace import trace

PREFIX = "denoiser."


def step_site(index: int, reach: tuple[str, ...]) -> Site:
    """Where it is decided what one step does."""
    name = f"steps.{index}"
    return Site(
        name=name,
        kind="step",
        shape=(1,),
        touches=(Touch(module=name, role="step", index=(index,)),),
        reach=reach,
    )


def graph_of(sampler: Sampler, example: Mapping[str, Tensor]) -> Graph:
    """All sites of a sampler; MACs are those of one step, all conditions of guidance counted.

    example: inputs of the sampler, "noise" [n, ...] and conditions.  Channel groups, blocks and
    token streams are those found in one evaluation.  Raises what `allot.trace` raises.
    """
    one = trace(_first_step(sampler), lambda m, x: m(**x), dict(example))
    layers = tuple(x.module for x in one.layers)
    steps = tuple(step_site(i, layers) for i in range(len(sampler.grid)))
    return replace(one, sites=(*steps, *one.sites))


def _first_step(sampler: Sampler) -> nn.Module:
    """The sampler with its first step alone; shares its network."""
    g = sampler.grid
    grid: Grid = replace(g, times=g.times[:1], signals=g.signals[:1], noises=g.noises[:1])
    return Sampler(denoiser=sampler.denoiser, grid=grid, guidance=sampler.guidance)
