"""Networks: the zoo's two samplers as tasks, and what may be chosen in them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from allot.bank import Bank
from allot.calibrate import calibrate, needed
from allot.families.diffusion import load, span_sets
from allot.runtimes.ideal import Ideal
from allot.samplers import bill, space
from allot.samplers.graph import graph_of
from allot.samplers.task import Noises, task_of
from allot.sampling.sampler import Sampler
from allot.sampling.spans import HOLD, Span, Taylor
from allot.site import Graph
from allot.space import Space
from allot.task import Task
from benchmarks.diffusion.judge import judge
from benchmarks.tasks import zoo

NETWORKS = ("dit_fmnist16", "unet_fmnist16")
SHAPE, CLASSES, STEPS = (1, 16, 16), 10, 20
BATCH = 64


@dataclass(frozen=True, kw_only=True, eq=False)
class Network:
    """A sampler of the zoo, its task and the space that is searched."""

    task: Task
    graph: Graph
    spans: tuple[Span, ...]

    @property
    def sampler(self) -> Sampler:
        assert isinstance(self.task.model, Sampler)
        return self.task.model

    @cached_property
    def space(self) -> Space:
        """Weights in 8 or 4 bits, and of every step: in 8 or 4 bits, with a span reused, left out.

        A step that reuses computes the rest in 8 bits; tensors have live ranges, a token each.
        """
        bits = space.precision(self.graph, Ideal())
        whole = space.steps(self.graph, Ideal(), drop=True)
        reuse = space.steps(
            self.graph, Ideal(), bits=(8,), spans=self.spans, predictors=(HOLD, Taylor()),
            drop=False,
        )  # fmt: skip
        joined = []
        for a, b in zip(whole.choices, reuse.choices, strict=True):
            more = [o for o in b.options if o not in a.options]
            joined.append(type(a)(site=a.site, options=(*a.options, *more)))
        return bits + Space(graph=self.graph, choices=tuple(joined))

    @cached_property
    def costs(self) -> bill.Costs:
        return bill.Costs(space=self.space, target=Ideal())

    @cached_property
    def bank(self) -> Bank:
        """Every option encoded on what the sampler's own run shows it."""
        stats = calibrate(self.task, self.sampler, needed(self.space), batch=BATCH)
        return Bank(self.sampler, graph=self.graph, stats=stats)


def network(name: str, *, noises: Noises, steps: int = STEPS) -> Network:
    """A sampler of the zoo; raises MissingError without the zoo or diffusers.

    noises: how many for what.  The spans are those of more than a quarter of the multiplications.
    """
    sampler = load(zoo() / "fmnist" / name, steps=steps)
    task = task_of(
        sampler, SHAPE, name=name, conditions={"class_labels": torch.arange(CLASSES)},
        noises=noises, judge=judge(),
    )  # fmt: skip
    example = task.example()
    assert isinstance(example, dict)
    graph = graph_of(sampler, example)
    groups = [g[0] for g in span_sets(sampler.denoiser).values() if len(g) == 1]
    large = tuple(s for s in groups if share(graph, s) > 0.25)
    return Network(task=task, graph=graph, spans=large)


def share(graph: Graph, span: Span) -> float:
    """Share of the multiplications that lie in a span."""
    inside = [
        x.macs for x in graph.layers
        if any(f"{x.module}.".startswith(f"denoiser.{m}.") for m in span.modules)
    ]  # fmt: skip
    return sum(inside) / sum(x.macs for x in graph.layers)
