"""Uniform: a network's float file, and the file with every layer in 8-bit integers."""

from __future__ import annotations

from dataclasses import dataclass

from allot.bank import Bank
from allot.calibrate import calibrate, needed
from allot.deploy import deploy
from allot.num.rounding import Nearest
from allot.onnx_graph import to_onnx
from allot.option import Option
from allot.options.precision import Activation, Weight
from allot.site import Graph, Site
from allot.space import Choice, Space
from allot.target import Target
from allot.task import Task
from allot.trace import trace

ORIGINALS: dict[str, Option] = {"weight": Weight(bits=32), "activation": Activation(bits=32)}
# codes decide no speed; rounding to the nearest takes the least time
EIGHT: dict[str, Option] = {
    "weight": Weight(bits=8, rounding=Nearest()),
    "activation": Activation(bits=8),
}


@dataclass(frozen=True, kw_only=True)
class Files:
    """ONNX files of one network.  layers: how many were quantized."""

    original: bytes
    quantized: bytes
    layers: int


def uniform(task: Task, target: Target) -> Files:
    """Weight and input of every layer in 8 bits where the target has a kernel for it."""
    graph = trace(task.model, task.forward, task.example())
    space = eight(graph, target)
    bank = Bank(task.model, graph=graph, stats=calibrate(task, task.model, needed(space)))
    planned = bank.copy(bank.standins(space.options((1,) * len(space.choices))))
    example = task.example()
    return Files(
        original=to_onnx(deploy(bank.copy({}), graph), example),
        quantized=to_onnx(deploy(planned, graph), example),
        layers=sum(graph.site(c.site).kind == "weight" for c in space.choices),
    )


def eight(graph: Graph, target: Target) -> Space:
    """The original or 8 bits at every site that the target can, tied ones with it."""

    def possible(site: Site) -> bool:
        option = EIGHT.get(site.kind)
        return option is not None and not site.fixed and not target.can(option, site, graph)

    choices = [
        Choice(
            site=s.name,
            options=(ORIGINALS[s.kind], EIGHT[s.kind]),
            tied=target.tied(s, graph),
        )
        for s in graph.sites
        if possible(s)
    ]
    return Space(graph=graph, choices=tuple(choices))
