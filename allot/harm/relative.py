"""Relative: a share of some score per tensor, times an option's error over the tensor's squares."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

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


def places(scene: Scene) -> tuple[Place, ...]:
    """Where a score is wanted: outputs of all layers, and tensors that a choice rounds."""
    found = [*_outputs(scene)]
    found += [_place(scene, s) for i in _tensors(scene) for s in sites(scene.space.choices[i])]
    return tuple(dict.fromkeys(found))


def weighed(
    scene: Scene, scores: Mapping[Place, float], *, samples: int, batch: int, origin: str
) -> Table:
    """Share of the score times the relative squared error of a weight or a tensor between layers,
    summed over tied sites.

    scores: at every one of `places`, at least 0.  The share is that of the layer's output, for a
    tensor its own, over all layers' outputs together.  Only proportional to nats, unless other
    kinds are measured, whose unit it then takes (`in_measured_unit`).  Costs a forward pass over
    the first `samples` of the search data where tensors are rounded.
    """
    space, tensors = scene.space, _tensors(scene)
    whole = sum(scores[p] for p in _outputs(scene)) or 1.0
    errors = _tensor_errors(scene, tensors, samples=samples, batch=batch)
    values = {i: np.zeros(n) for i, n in enumerate(space.counts) if i in tensors}
    for i in tensors:
        for s in sites(space.choices[i]):
            values[i] += scores[_place(scene, s)] / whole * errors[s]
    for i in weight_choices(space):
        choice = space.choices[i]
        values[i] = np.zeros(space.counts[i])
        for s in sites(choice):
            share = scores[module_of(scene.bank.graph, s), "out"] / whole
            values[i] += share * _weight_errors(scene, s, choice.options)
    return completed(scene, in_measured_unit(scene, values), origin=origin)


def _outputs(scene: Scene) -> list[Place]:
    return [(x.module, "out") for x in scene.bank.graph.layers]


def _tensors(scene: Scene) -> list[int]:
    """Positions of the choices that do nothing but round tensors."""
    return [i for i, c in enumerate(scene.space.choices) if _is_tensor(scene, c)]


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
