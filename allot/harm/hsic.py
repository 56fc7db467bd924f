"""HSIC: how much a tensor has to do with what the network puts out, times an option's error."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from allot.harm.relative import Place, places, weighed
from allot.num.dependence import gaussian, linear, standardized
from allot.num.dependence import hsic as dependence
from allot.options.tensors import channel_dim
from allot.scene import Scene
from allot.site import Graph
from allot.sweep import Observer, observed
from allot.table import Table


def hsic(
    scene: Scene,
    *,
    samples: int = 256,
    batch: int = 64,
    progress: Callable[[float], None] = lambda share: None,
) -> Table:
    """Share of dependence times the relative squared error of a weight or a tensor between layers
    (after Akbari et al. 2026, ActQuant, stage 1), summed over tied sites; see `weighed` for the
    unit, `dependences` for the score.

    Deviations: the error is the option's own, where the authors take 2^(-2 bits) whatever a
    tensor is; harms of layers are summed, which an exact solver minimises, where they square the
    sum of every block and go greedily.  What is near the output depends on it most, whatever it is
    worth: shares grow with depth.
    """
    found = dependences(scene, places(scene), samples=samples, batch=batch, progress=progress)
    return weighed(
        scene, found, samples=samples, batch=batch,
        origin="share of HSIC with the output times relative squared error",
    )  # fmt: skip


def dependences(
    scene: Scene,
    wanted: Iterable[Place],
    *,
    samples: int = 256,
    batch: int = 64,
    progress: Callable[[float], None] = lambda share: None,
) -> dict[Place, float]:
    """Place -> biased HSIC of the tensor there with the network's outputs (Gretton et al. 2005).

    A tensor's features are its channels, their means over tokens or pixels and calls, with a
    Gaussian kernel whose bandwidth is the median distance; outputs are standardized one by one
    and have a linear kernel.  Deviations from ActQuant: the outputs stand for recorded actions,
    which needs no labels; dependence on the network's input, which the authors' code also
    subtracts, is left out: it takes scores below 0, which leaves those tensors no bits.  Costs a
    forward pass over the first `samples` of the search data.
    """
    data = scene.data.subset(slice(0, samples))
    names = sorted(set(wanted))
    rows: dict[Place, list[Tensor]] = {p: [] for p in names}
    dims, outputs, done = _dims(scene.bank.graph), [], 0
    for part in data.batches(batch):
        held: dict[Place, list[Tensor]] = {p: [] for p in names}
        with observed(scene.bank.skeleton, {p: [_holder(x)] for p, x in held.items()}):
            with torch.no_grad():
                output = scene.task.forward(scene.bank.skeleton, part)
        for p, seen in held.items():
            if seen:
                every = [_features(x, len(output), dims[p]) for x in seen]
                rows[p].append(torch.stack(every).mean(0))
        outputs.append(output.flatten(1))
        done += len(output)
        progress(min(1.0, done / len(data)))
    scene.evaluator.charge(len(data) / len(scene.data))
    said = linear(standardized(torch.cat(outputs)))
    return {p: dependence(gaussian(torch.cat(x)), said) if x else 0.0 for p, x in rows.items()}


def _holder(held: list[Tensor]) -> Observer:
    def observe(x: Tensor) -> None:
        held.append(x.detach().clone())  # what follows may work in place

    return observe


def _dims(graph: Graph) -> dict[Place, int]:
    """Along which dim the channels of a tensor lie: where they are read, or as a layer makes
    them."""
    sites = [s for s in graph.sites if s.kind == "activation"]
    found = {(t.module, t.role): channel_dim(s, graph) for s in sites for t in s.touches}
    return found | {(x.module, "out"): -1 if x.op == "linear" else 1 for x in graph.layers}


def _features(x: Tensor, samples: int, dim: int) -> Tensor:
    """Channels of every sample, their mean over all else: [samples, ...] -> [samples, c]."""
    x = x.movedim(dim, -1)
    return x.reshape(samples, -1, x.shape[-1]).double().mean(1)
