"""Gate training: gates learn from the original's own run how often they may close."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from allot.options.standins import inner_attribute
from allot.sampling.features import Features, Seeds, features
from allot.sampling.gates import Gate
from allot.sampling.moment import Moment, Request, told
from allot.sampling.nested import first_input
from allot.sampling.probes import IN, Probe
from allot.sampling.sampler import Sampler, State
from allot.sampling.spans import Span

Gates = Mapping[tuple[int, Span], Gate]


@dataclass(frozen=True, kw_only=True)
class Training:
    """How gates are learned.

    laziness: of the penalty, the mean over gates of 1 - gate.  looks: gates look at the input
    (LazyDiT); else they are routers, the same for every sample (Learning-to-Cache).  batch: samples
    of one iteration, which is at one step.
    """

    laziness: float = 1e-2
    iterations: int = 300
    lr: float = 1e-2
    batch: int = 32
    looks: bool = True
    seed: int = 0


def trained(
    sampler: Sampler, seeds: Seeds, *, spans: Sequence[Span], how: Training
) -> dict[tuple[int, Span], Gate]:
    """Gates of spans of one module each, at every step but the first.

    The network is frozen.  At a step of the original's own run every span gives a mixture of its
    result and of the one a step before; learned is the squared error of the network's output,
    relative to its mean square, plus the penalty.  Deviations, both to need no data: LazyDiT (Shen
    et al. 2025) takes its pairs of steps from noised data and weighs the absolute error;
    Learning-to-Cache (Ma et al. 2024) lets a router serve every second step only.  Under guidance
    both conditions share a gate.
    """
    probes = [Probe(module=s.modules[0], role=IN) for s in spans]
    seen = features(sampler, seeds, spans=spans, probes=probes)
    gates = fresh(seen, spans, looks=how.looks)
    lesson = _Lesson(sampler=sampler, seen=seen, seeds=seeds, gates=gates, how=how)
    parameters = [p for g in gates.values() for p in g.parameters()]
    optimizer = torch.optim.Adam(_groups(gates, how.lr))
    draw = torch.Generator().manual_seed(how.seed)
    for i in range(how.iterations):
        step = 1 + int(torch.randint(len(sampler.grid) - 1, (1,), generator=draw))
        rows = torch.randperm(len(seeds), generator=draw)[: how.batch]
        names = list(seen.outputs)
        loss = lesson.loss(step, names[i % len(names)], rows)
        # of the gates alone: the network may be someone's, with gradients of its own
        found = torch.autograd.grad(loss, parameters, allow_unused=True)
        for p, g in zip(parameters, found, strict=True):
            p.grad = g
        optimizer.step()
    return {place: gate.requires_grad_(False) for place, gate in gates.items()}


def _groups(gates: Gates, lr: float) -> list[dict[str, Any]]:
    """Weights learn more slowly the more of them there are: a step of Adam moves every one by as
    much, and with many of them a gate's value would jump to its end at the first."""
    groups: list[dict[str, Any]] = [{"params": [g.bias for g in gates.values()], "lr": lr}]
    for g in gates.values():
        if g.weight is not None:
            groups.append({"params": [g.weight], "lr": lr / len(g.weight)})
    return groups


def fresh(seen: Features, spans: Sequence[Span], *, looks: bool) -> dict[tuple[int, Span], Gate]:
    """Gates that say 0.5 of everything, at every step but the first."""
    gates = {}
    for (probe, _), inputs in seen.probes.items():
        for span in spans:
            if span.modules[0] == probe.module:
                x = inputs[0]
                channels = (x.shape[1] if x.dim() == 4 else x.shape[-1]) if looks else None
                for i in range(1, len(inputs)):
                    gates[i, span] = Gate(channels=channels).to(x.device)
    return gates


def at_share(gates: Gates, seen: Features, share: float) -> dict[tuple[int, Span], Gate]:
    """The gates (in place) with the one threshold at which that share of results is taken again.

    seen: features with the spans' inputs as probes.  The share counts samples, spans and steps
    alike, the first step aside, on inputs of the original's run.
    """
    said = torch.cat([v for pair in values(gates, seen).values() for v in pair]).sort().values
    closed = round(share * len(said))
    threshold = 1.0 if closed == 0 else float(said[len(said) - closed]) - 1e-7
    for g in gates.values():
        g.threshold = threshold
    return dict(gates)


def values(gates: Gates, seen: Features) -> dict[tuple[int, Span], list[Tensor]]:
    """What every gate says on the original's run, [n] for every condition."""
    found: dict[tuple[int, Span], list[Tensor]] = {}
    with torch.no_grad():
        for (step, span), gate in gates.items():
            inputs = [x[step] for (p, _), x in seen.probes.items() if p.module == span.modules[0]]
            found[step, span] = [gate(x) for x in inputs]
    return found


@dataclass(frozen=True, kw_only=True, eq=False)
class _Lesson:
    """What gates are learned on."""

    sampler: Sampler
    seen: Features
    seeds: Seeds
    gates: Gates
    how: Training

    def loss(self, step: int, condition: str, rows: Tensor) -> Tensor:
        """Relative error of the network's output at a step, plus the penalty."""
        request, seen = Request(), self.seen
        x = seen.inputs[step][rows]
        some = {k: v[rows] for k, v in self.seeds.conditions.items()}
        conditions = self.sampler.conditions(State(x=x, conditions=some, request=request))
        level = self.sampler.grid.level(step)
        moment = Moment(step=step, level=level, request=request, condition=condition)
        gates = {s: g for (i, s), g in self.gates.items() if i == step}
        before = {s: seen.spans[s, condition][step - 1].values[0][rows] for s in gates}
        network = self.sampler.denoiser
        with told(network, moment), _mixed(network, gates, before) as mixed:
            output = self.sampler.evaluate(x, moment, conditions[condition])
        truth = seen.outputs[condition][step][rows]
        lazy = torch.stack([m.said for m in mixed]).mean()
        error = (output - truth).square().mean() / truth.square().mean()
        return error + self.how.laziness * (1 - lazy)


class _Mixed(nn.Module):
    """(1 - g) * what the module gives + g * what it gave a step before, g its gate."""

    said: Tensor

    def __init__(self, inner: nn.Module, *, gate: Gate, before: Tensor) -> None:
        nn.Module.__init__(self)
        self.inner, self.gate, self.before = inner, gate, before

    def __getattr__(self, name: str) -> Any:
        return inner_attribute(self, name)

    def forward(self, *inputs: Any, **named: Any) -> Any:
        out = self.inner(*inputs, **named)
        self.said = self.gate(first_input(inputs, named)).to(out.dtype)
        g = self.said.reshape(-1, *[1] * (out.dim() - 1))
        return (1 - g) * out + g * self.before


@contextmanager
def _mixed(
    network: nn.Module, gates: Mapping[Span, Gate], before: Mapping[Span, Tensor]
) -> Iterator[list[_Mixed]]:
    """The network with every gated module mixed; restored by identity at the end."""
    done: list[tuple[nn.Module, str, nn.Module]] = []
    mixed: list[_Mixed] = []
    try:
        for span, gate in gates.items():
            parent_name, _, child = span.modules[0].rpartition(".")
            parent = network.get_submodule(parent_name)
            inner = parent._modules[child]
            assert inner is not None and len(span.modules) == 1
            mixed.append(_Mixed(inner, gate=gate, before=before[span]))
            done.append((parent, child, inner))
            parent._modules[child] = mixed[-1]
        yield mixed
    finally:
        for parent, child, module in reversed(done):
            parent._modules[child] = module
