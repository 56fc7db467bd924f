"""LRP: the share of a prediction that flows through a tensor, times an option's relative error."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from allot.harm.alone import completed, in_measured_unit
from allot.harm.weights import module_of, sites, squared_error, weight, weight_choices
from allot.option import Option
from allot.options.standins import QuantizedInput, QuantizedOutput
from allot.scene import Scene
from allot.space import Choice
from allot.sweep import Observer, observed
from allot.table import Array, Table

# (module, "in" | "out"): where a tensor is looked at
Place = tuple[str, str]


def lrp(
    scene: Scene,
    *,
    samples: int = 256,
    batch: int = 64,
    progress: Callable[[float], None] = lambda share: None,
) -> Table:
    """Share of relevance times the relative squared error of a weight or a tensor between layers
    (after Ranjan and Savakis 2024), summed over tied sites.

    The share is the positive relevance of the layer's output, for a tensor its own, over that of
    all layers' outputs together; see `relevances`.  The paper gives more bits to larger shares
    without a formula per option; the product with the error is ours.  Only proportional to nats,
    unless other kinds are measured, whose unit it then takes (`in_measured_unit`).
    """
    space = scene.space
    layers = [(x.module, "out") for x in scene.bank.graph.layers]
    tensors = [i for i, c in enumerate(space.choices) if _is_tensor(scene, c)]
    places = {s: _place(scene, s) for i in tensors for s in sites(space.choices[i])}
    flows = relevances(
        scene, {*layers, *places.values()}, samples=samples, batch=batch, progress=progress
    )
    whole = sum(flows[p][1] for p in layers) or 1.0
    errors = _tensor_errors(scene, tensors, samples=samples, batch=batch)
    values = {i: np.zeros(n) for i, n in enumerate(space.counts) if i in tensors}
    for i in tensors:
        for s in sites(space.choices[i]):
            values[i] += flows[places[s]][1] / whole * errors[s]
    for i in weight_choices(space):
        choice = space.choices[i]
        values[i] = np.zeros(space.counts[i])
        for s in sites(choice):
            flow = flows[module_of(scene.bank.graph, s), "out"][1]
            values[i] += flow / whole * _weight_errors(scene, s, choice.options)
    return completed(
        scene,
        in_measured_unit(scene, values),
        origin="share of relevance times relative squared error",
    )


def relevances(
    scene: Scene,
    places: Iterable[Place],
    *,
    samples: int = 256,
    batch: int = 64,
    progress: Callable[[float], None] = lambda share: None,
) -> dict[Place, tuple[float, float]]:
    """Place -> relevance of the tensor there, signed and its positive part, mean per sample.

    Value times gradient of the largest logit (classes in dim 1), summed over the tensor.  Where
    everything after the tensor is linear without bias or a ReLU, that is layer-wise relevance
    propagation by its basic rule (Bach et al. 2015; Shrikumar et al. 2017), and the signed sum
    over tensors that cut the network in two is the logit.  Deviations: biases and shifts of
    norms keep what the rule would spread; softmax, products and smooth activations enter by
    their slope.  The signed sum is the same at every layer of a chain, so it cannot rank layers:
    what ranks them is the positive part.  Costs a forward and a backward pass.
    """
    data = scene.data.subset(slice(0, samples))
    names = sorted(set(places))
    totals = {p: [0.0, 0.0] for p in names}
    done = 0
    for part in data.batches(batch):
        held: dict[Place, list[Tensor]] = {p: [] for p in names}
        with observed(scene.bank.skeleton, {p: [_holder(x)] for p, x in held.items()}):
            output = scene.task.forward(scene.bank.skeleton, part)
        flat = [(p, x) for p in names for x in held[p]]
        top = output.max(dim=1).values.sum()
        slopes = torch.autograd.grad(top, [x for _, x in flat], allow_unused=True)
        for (p, x), slope in zip(flat, slopes, strict=True):
            if slope is not None:
                relevance = x.detach().double() * slope
                totals[p][0] += float(relevance.sum())
                totals[p][1] += float(relevance.clamp(min=0).sum())
        done += len(output)
        progress(min(1.0, done / len(data)))
    scene.evaluator.charge(3 * len(data) / len(scene.data))
    return {p: (a / len(data), b / len(data)) for p, (a, b) in totals.items()}


def _holder(held: list[Tensor]) -> Observer:
    """Keeps what passes, and lets a copy pass, since what follows may work in place."""

    def observe(x: Tensor) -> Tensor:
        # weights need no gradient here: the first tensor that is looked at starts the graph
        here = x if x.requires_grad else x.detach().requires_grad_(True)
        held.append(here)
        return here.clone()

    return observe


def _place(scene: Scene, site: str) -> Place:
    touch = scene.bank.graph.site(site).touches[0]
    return touch.module, touch.role


def _is_tensor(scene: Scene, choice: Choice) -> bool:
    """Whether all that a choice does is to round a tensor at its sites."""
    return all(
        _rounder(scene, s, o) is not None
        for s in sites(choice)
        for o in choice.options
        if not o.is_original
    ) and all(scene.bank.graph.site(s).kind == "activation" for s in sites(choice))


def _rounder(scene: Scene, site: str, option: Option) -> Callable[[Tensor], Tensor] | None:
    """What an option does to the tensor at a site, None where it does something else."""
    found = scene.bank.standins({site: option}).get(_place(scene, site)[0])
    return found.quantize if isinstance(found, QuantizedInput | QuantizedOutput) else None


def _tensor_errors(
    scene: Scene, at: Sequence[int], *, samples: int, batch: int
) -> dict[str, Array]:
    """Site -> squared error of every option in its tensor over the tensor's squares: [n].

    Costs a forward pass.
    """
    choices = {s: scene.space.choices[i] for i in at for s in sites(scene.space.choices[i])}
    if not choices:
        return {}
    sums = {s: np.zeros(1 + len(c.options)) for s, c in choices.items()}

    def observer(site: str) -> Observer:
        changes = [_rounder(scene, site, o) for o in choices[site].options]

        def observe(x: Tensor) -> None:
            errors = [0.0 if q is None else _square(q(x) - x) for q in changes]
            sums[site] += np.array([_square(x), *errors])

        return observe

    hooks: dict[Place, list[Observer]] = {}
    for s in choices:
        hooks.setdefault(_place(scene, s), []).append(observer(s))
    data = scene.data.subset(slice(0, samples))
    with observed(scene.bank.skeleton, hooks), torch.no_grad():
        for part in data.batches(batch):
            scene.task.forward(scene.bank.skeleton, part)
    scene.evaluator.charge(len(data) / len(scene.data))
    return {s: x[1:] / (x[0] or 1.0) for s, x in sums.items()}


def _square(x: Tensor) -> float:
    return float(x.double().square().sum())


def _weight_errors(scene: Scene, site: str, options: Sequence[Option]) -> Array:
    """Squared error of every option in a weight over the weight's squares: [n]."""
    whole = _square(weight(scene.bank.module(module_of(scene.bank.graph, site))).detach())
    return np.array([squared_error(scene.bank, site, o) for o in options]) / (whole or 1.0)
