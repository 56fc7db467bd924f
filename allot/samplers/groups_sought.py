"""Groups sought: how many channels of every tensor share a scale, by evolution on samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from allot.bank import Bank
from allot.calibrate import calibrate
from allot.errors import InputError
from allot.num.formats import Float16, Format, Int
from allot.num.live_ranges import AtRunTime
from allot.num.rounding import Gptq
from allot.option import Option, Statistic
from allot.options.formatted import Formatted
from allot.options.precision import Weight
from allot.options.sharing import PerGroup
from allot.options.tensors import ActivationFormat
from allot.samplers.folded_time import around
from allot.samplers.planned import Planned
from allot.samplers.quantizing import plan_of
from allot.sampling.features import Seeds
from allot.sampling.sampler import Sampler
from allot.scheme import Quantized
from allot.site import Graph, Site
from allot.task import Task
from allot.trace import trace

# (original samples, samples) -> a number that is to be small
Quality = Callable[[Tensor, Tensor], float]
Genes = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Evolution:
    """population, parents: of a generation; children: made of these, half by mutation with a chance
    per gene, half by crossing."""

    population: int = 20
    parents: int = 5
    children: int = 10
    generations: int = 4
    chance: float = 0.1


USUAL = Evolution()


@dataclass(kw_only=True, eq=False)
class _Trials:
    """Choices of group sizes and the quality that samples lose by them; each is sampled once."""

    sampler: Sampler
    bank: Bank
    options: Callable[[Genes], Mapping[str, Option]]
    seeds: Seeds
    quality: Quality
    original: Tensor
    seen: dict[Genes, float] = field(default_factory=dict)

    def value(self, genes: Genes) -> float:
        if genes not in self.seen:
            standins = self.bank.standins(self.options(genes))
            with torch.no_grad(), self.bank.trial(standins) as network:
                got = around(self.sampler, network)(self.seeds.noise, **self.seeds.conditions)
            self.seen[genes] = self.quality(self.original, got)
        return self.seen[genes]


def groups_sought(
    sampler: Sampler,
    seeds: Seeds,
    task: Task,
    *,
    quality: Quality,
    sizes: Sequence[int] = (16, 32, 64, 128),
    mean: float = 64.0,
    bits: tuple[int, int] = (4, 8),
    evolution: Evolution = USUAL,
    seed: int = 0,
) -> Planned:
    """The sampler with the group sizes of least lost quality, among those with a mean size of at
    least `mean` (Q-DiT, Chen et al. 2025).

    task: of the sampler's network along its runs.  quality: of samples of the seeds, such as their
    Frechet distance to the original's.  sizes: tried, as far as they divide a tensor's channels.
    bits: of weights (GPTQ) and of tensors, whose ranges are found when they come.  What
    convolutions read stays float, their weights have a scale per output channel.  found: "quality",
    and "uniform quality", the least of any one size for all that is allowed, which it never
    exceeds.  Raises InputError where no choice has such a mean.
    """
    graph = trace(task.model, task.forward, task.example())
    sites = [s for s in graph.sites if _fits(s, graph, sizes)]
    offered = [[z for z in sizes if s.shape[-1] % z == 0] for s in sites]

    def options(genes: Genes) -> Mapping[str, Option]:
        picked = [z[g] for z, g in zip(offered, genes, strict=True)]
        return _options(graph, dict(zip(sites, picked, strict=True)), bits)

    def allowed(genes: Genes) -> bool:
        return sum(z[g] for z, g in zip(offered, genes, strict=True)) >= mean * len(genes)

    most = tuple(len(z) - 1 for z in offered)
    if not sites or not allowed(most):
        raise InputError(f"no choice of group sizes {tuple(sizes)} has a mean of {mean:g}")
    every = [options(tuple(min(g, m) for m in most)) for g in range(len(sizes))]
    stats = calibrate(task, task.model, _needed(graph, every))
    bank = Bank(task.model, graph=graph, stats=stats)
    with torch.no_grad():
        original = sampler(seeds.noise, **seeds.conditions)
    trials = _Trials(
        sampler=sampler, bank=bank, options=options, seeds=seeds, quality=quality,
        original=original,
    )  # fmt: skip
    uniform = [tuple(min(g, m) for m in most) for g in range(len(sizes))]
    begin = [g for g in dict.fromkeys(uniform) if allowed(g)]
    start = min(trials.value(g) for g in begin)
    best = _evolved(trials, begin, most, allowed, evolution, seed)
    chosen = options(best)
    made = Quantized(
        task=task, graph=graph, bank=bank, options=chosen, standins=bank.standins(chosen)
    )
    plan = plan_of(sampler, made, made.standins)
    told = {"quality": trials.value(best), "uniform quality": start, "tried": len(trials.seen)}
    return replace(plan, found={**plan.found, **told})


def _evolved(
    trials: _Trials,
    begin: Sequence[Genes],
    most: Genes,
    allowed: Callable[[Genes], bool],
    evolution: Evolution,
    seed: int,
) -> Genes:
    """The best choice seen."""
    generator = torch.Generator().manual_seed(seed)

    def anyone(i: int) -> Genes:
        return tuple(_draw(m + 1, generator) for m in most)

    people = _more(list(begin), evolution.population, anyone, allowed)
    for _ in range(evolution.generations):
        parents = sorted(dict.fromkeys(people), key=trials.value)[: evolution.parents]

        def child(i: int, parents: Sequence[Genes] = parents) -> Genes:
            a, b = (parents[_draw(len(parents), generator)] for _ in range(2))
            return _crossed(a, b, generator) if i % 2 else _mutated(a, most, evolution, generator)

        people = _more(parents, evolution.parents + evolution.children, child, allowed)
    return min(people, key=trials.value)


def _more(
    people: Sequence[Genes],
    size: int,
    make: Callable[[int], Genes],
    allowed: Callable[[Genes], bool],
) -> list[Genes]:
    """As many as asked for, as far as so many that are allowed are found."""
    found = list(people)
    for i in range(20 * size):
        new = make(i) if len(found) < size else None
        if new is not None and allowed(new):
            found.append(new)
    return found


def _draw(n: int, generator: torch.Generator) -> int:
    return int(torch.randint(n, (), generator=generator))


def _crossed(a: Genes, b: Genes, generator: torch.Generator) -> Genes:
    return tuple(x if _draw(2, generator) else y for x, y in zip(a, b, strict=True))


def _mutated(a: Genes, most: Genes, evolution: Evolution, generator: torch.Generator) -> Genes:
    changed = torch.rand(len(a), generator=generator) < evolution.chance
    return tuple(
        _draw(m + 1, generator) if c else x
        for x, m, c in zip(a, most, changed.tolist(), strict=True)
    )


def _fits(site: Site, graph: Graph, sizes: Sequence[int]) -> bool:
    """Whether linears alone read a tensor whose channels part into groups of some size."""
    if site.kind != "activation" or site.fixed:
        return False
    ops = {graph.layer(m).op for m in site.reach}
    return ops == {"linear"} and any(site.shape[-1] % z == 0 for z in sizes)


def _options(graph: Graph, chosen: Mapping[Site, int], bits: tuple[int, int]) -> dict[str, Option]:
    """Site -> option; layers without groups have a scale per output channel."""
    found: dict[str, Option] = {}
    for site, size in chosen.items():
        found[site.name] = ActivationFormat(
            grid=Int(bits=bits[1]), sharing=PerGroup(size=size), ranges=AtRunTime()
        )
        fmt = Format(grid=Int(bits=bits[0]), group=size, scales=Float16())
        weight = Formatted(name=f"W{bits[0]}g{size}", format=fmt, rounding=Gptq())
        found |= {f"{m}.weight": weight for m in site.reach}
    for layer in graph.layers:
        found.setdefault(f"{layer.module}.weight", Weight(bits=bits[0]))
    return found


def _needed(graph: Graph, every: Sequence[Mapping[str, Option]]) -> tuple[Statistic, ...]:
    """What the options of all choices need to be known."""
    pairs = ((graph.site(n), o) for options in every for n, o in options.items())
    return tuple(dict.fromkeys(s for site, o in pairs for s in o.needs(site, graph)))
