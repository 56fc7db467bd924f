"""Quantizing: a sampler's network through a scheme, calibrated along the sampler's own runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from torch import nn

from allot.num.activation_ranges import ActivationRange
from allot.num.formats import Grid, UInt
from allot.option import Option
from allot.options.standins import OnGrid
from allot.reconstruct.setting import Reconstruction
from allot.recover import Recovery
from allot.samplers.folded_time import CLASS, around
from allot.samplers.graph import PREFIX
from allot.samplers.planned import Planned
from allot.samplers.ranges import WHOLE, step_tables
from allot.samplers.time_block import Inside, time_quantized
from allot.samplers.trajectory import ALL_STEPS, along, visited
from allot.sampling.allocation import Allocation
from allot.sampling.features import Seeds
from allot.sampling.sampler import Sampler
from allot.scheme import Quantized, Rule, Scheme, quantized
from allot.sweep import unwrapped

# calibration inputs, and recovery that leaves codes as a format's own rounding made them
TOTAL = 1024
PLAIN = Recovery(samples=TOTAL, matched=False)


@dataclass(frozen=True, kw_only=True)
class Along:
    """What a network is calibrated on. total: inputs.  allocation: of them to steps.  seed: of
    their order and of learning."""

    total: int = TOTAL
    allocation: Allocation = ALL_STEPS
    seed: int = 0


USUAL = Along()


def network_quantized(
    sampler: Sampler, seeds: Seeds, scheme: Scheme, *, along_runs: Along = USUAL
) -> Quantized:
    """The sampler's network after a scheme's passes, on inputs of the sampler's own runs.

    Raises what `along` and `quantized` raise.
    """
    a = along_runs
    task = along(sampler, seeds, total=a.total, allocation=a.allocation, seed=a.seed)
    return quantized(task, scheme, seed=a.seed)


def through(
    sampler: Sampler, seeds: Seeds, scheme: Scheme, *, along_runs: Along = USUAL
) -> Planned:
    """The sampler around that network; stand-ins are of the rewritten one where it is rewritten."""
    made = network_quantized(sampler, seeds, scheme, along_runs=along_runs)
    return plan_of(sampler, made, made.standins)


def plan_of(sampler: Sampler, made: Quantized, standins: Mapping[str, nn.Module]) -> Planned:
    """The sampler around a quantized network with these stand-ins; what stays float is counted.

    found: "float layers", of the network's layers those with a float weight; "layers"; "weight
    bits" of all layers' weights, scales counted.
    """
    network = made.bank.copy(standins).eval()
    left = float_layers(made, standins)
    return Planned(
        sampler=around(sampler, network),
        standins={f"{PREFIX}{n}": m for n, m in standins.items()},
        found={
            "float layers": float(len(left)),
            "layers": float(len(made.graph.layers)),
            "weight bits": made.weight_bits,
        },
    )


def float_layers(made: Quantized, standins: Mapping[str, nn.Module]) -> tuple[str, ...]:
    """Layers whose weight nothing stands in for."""
    coded = {n for n, m in standins.items() if not isinstance(unwrapped(m), nn.Linear | nn.Conv2d)}
    return tuple(x.module for x in made.graph.layers if x.module not in coded)


def with_tables(
    sampler: Sampler,
    seeds: Seeds,
    made: Quantized,
    standins: Mapping[str, nn.Module],
    *,
    bits: int,
    sites: Sequence[str],
    rule: ActivationRange = WHOLE,
) -> dict[str, nn.Module]:
    """Stand-ins with a table of ranges for every step at some tensors, in place of what was there.

    Ranges are found while the quantized weights are in place, along runs of the sampler with them.
    """
    weights = weights_alone(standins)
    network = made.bank.copy(weights).eval()
    seen = visited(around(sampler, network), seeds)
    grid: Grid = UInt(bits=bits)
    tables = step_tables(
        network, made.graph, seen, levels=sampler.grid, sites=sites, grid=grid, rule=rule
    )
    return placed(made, weights, tables)


def weights_alone(standins: Mapping[str, nn.Module]) -> dict[str, nn.Module]:
    """Layers on a grid without the quantizers around them."""
    bare = {n: unwrapped(m) for n, m in standins.items()}
    return {n: m for n, m in bare.items() if isinstance(m, OnGrid)}


def placed(
    made: Quantized, weights: Mapping[str, nn.Module], options: Mapping[str, Option]
) -> dict[str, nn.Module]:
    """Stand-ins with options of tensors put around them."""
    found = dict(weights)
    for name, option in options.items():
        site = made.graph.site(name)
        for touch in site.touches:
            inner = found.get(touch.module, made.bank.module(touch.module))
            found[touch.module] = option.apply(
                inner, touch=touch, site=site, graph=made.graph, stats=made.bank.stats
            )
    return found


def tensor_sites(made: Quantized) -> list[str]:
    """Tensors between layers on which something may be chosen."""
    sites = made.graph.sites
    return [s.name for s in sites if s.kind == "activation" and not s.fixed]


def with_time(
    sampler: Sampler,
    seeds: Seeds,
    names: Sequence[str],
    *,
    weight: Option | Rule,
    learning: Reconstruction,
    along_runs: Along = USUAL,
    by: str = CLASS,
) -> tuple[Quantized, dict[str, nn.Module]]:
    """Weights learned along runs by the setting's units, and those of modules of time as one unit
    over all steps; tensors in float.  names: of modules of time and class (`by`) alone."""
    a = along_runs
    task = along(sampler, seeds, total=a.total, allocation=a.allocation, seed=a.seed)
    others = Inside(option=weight, names=tuple(names), outside=True)
    recovery = replace(PLAIN, learning=learning)
    made = quantized(task, Scheme(weight=others, recovery=recovery), seed=a.seed)
    time = time_quantized(
        sampler, names, seeds, weight=weight, activation=None, learned=learning, by=by, seed=a.seed
    )
    both = replace(made, options={**made.options, **time.options})
    return both, {**made.standins, **time.standins}


def tabled(
    sampler: Sampler,
    seeds: Seeds,
    made: Quantized,
    weights: Mapping[str, nn.Module],
    *,
    bits: int | None,
    rule: ActivationRange = WHOLE,
) -> Planned:
    """The sampler with these weights and, unless bits are None, ranges for every step of all
    tensors between layers."""
    if bits is None:
        return plan_of(sampler, made, weights)
    standins = with_tables(
        sampler, seeds, made, weights, bits=bits, sites=tensor_sites(made), rule=rule
    )
    return plan_of(sampler, made, standins)
