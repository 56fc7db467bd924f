"""LRP: the share of a prediction that flows through a tensor, times an option's relative error."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from allot.harm.relative import Place, places, weighed
from allot.scene import Scene
from allot.sweep import Observer, observed
from allot.table import Table


def lrp(
    scene: Scene,
    *,
    samples: int = 256,
    batch: int = 64,
    progress: Callable[[float], None] = lambda share: None,
) -> Table:
    """Share of relevance times the relative squared error of a weight or a tensor between layers
    (after Ranjan and Savakis 2024), summed over tied sites; see `weighed` for the unit.

    The share is the positive relevance of the layer's output, for a tensor its own, over that of
    all layers' outputs together; see `relevances`.  The paper gives more bits to larger shares
    without a formula per option; the product with the error is ours.
    """
    flows = relevances(scene, places(scene), samples=samples, batch=batch, progress=progress)
    return weighed(
        scene, {p: positive for p, (_, positive) in flows.items()}, samples=samples, batch=batch,
        origin="share of relevance times relative squared error",
    )  # fmt: skip


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
