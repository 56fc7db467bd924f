"""HAWQ: mean trace of the loss's Hessian in a weight tensor times the squared error in it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from allot.errors import InputError
from allot.harm.alone import completed, in_measured_unit
from allot.harm.weights import copies, modules, weigh_by, weight, weight_choices
from allot.scene import Scene
from allot.table import Table
from allot.task import take

# fewer probes say nothing of their own spread
_LEAST = 8


def hawq(
    scene: Scene,
    *,
    probes: int = 30,
    samples: int = 128,
    accuracy: float = 0.05,
    progress: Callable[[float], None] = lambda share: None,
) -> Table:
    """Half of tr(H) / m times |W - Q(W)|^2 per weight of m elements (Dong et al. 2020; Yao et al.
    2021): the harm [nats] of an error that points nowhere in particular, without repair.

    Summed over tied sites.  The half of the Taylor expansion, which the papers drop, gives nats.
    W - Q(W) is the option as the bank encodes it; where that is rounded for the layer's inputs
    its error does much less harm than one of random direction.  What is no weight is measured one
    at a time, and then sets the unit (`in_measured_unit`).  For loss and keywords see `traces`.
    """
    at = weight_choices(scene.space)
    names = modules(scene.space, at)
    found = traces(
        scene, names, probes=probes, samples=samples, accuracy=accuracy, progress=progress
    )
    bank = scene.bank
    factors = {n: 0.5 * t / weight(bank.module(n)).numel() for n, (t, _) in found.items()}
    values = {i: weigh_by(bank, scene.space.choices[i], factors) for i in at}
    return completed(
        scene, in_measured_unit(scene, values), origin="Hessian trace times squared weight error"
    )


def traces(
    scene: Scene,
    names: Sequence[str],
    *,
    probes: int = 30,
    samples: int = 128,
    accuracy: float = 0.05,
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, tuple[float, float]]:
    """Module -> trace of the Hessian in its weight, at least 0, and its standard error [nats].

    Hutchinson's estimate with random signs, drawn for all tensors at once: one product with the
    Hessian serves them all, and what couples two tensors has mean 0.  probes: most of them; fewer
    where every standard error is below `accuracy` of its trace.  samples: first of the search
    data, as one batch.

    The loss is the divergence from the network's own outputs, where the papers take the labelled
    training loss: at the original both have the same Hessian up to the residuals of the labels
    (it is that of cross-entropy averaged over labels drawn from the prediction), and it needs no
    labels.  Raises InputError where the divergence has no finite second derivative.
    """
    if not names:
        return {}
    data = scene.data.subset(slice(0, samples))
    share = len(data) / len(scene.data)
    layers = {n: m.requires_grad_(True) for n, m in copies(scene.bank, names).items()}
    weights = [weight(m) for m in layers.values()]
    # fused attention has no second derivative
    with scene.bank.trial(layers) as model, sdpa_kernel(SDPBackend.MATH):
        output = scene.task.forward(model, take(data.inputs, slice(0, len(data))))
        # the very same numbers on both sides, so that the divergence is 0 exactly
        loss = scene.task.divergence(output.detach(), output).mean()
        slopes = torch.autograd.grad(loss, weights, create_graph=True)
        scene.evaluator.charge(3 * share)
        g = torch.Generator().manual_seed(scene.seed)
        rows: list[Tensor] = []
        while len(rows) < probes and not _settled(rows, accuracy):
            rows.append(_probe(slopes, weights, g))
            scene.evaluator.charge(4 * share)
            progress(len(rows) / probes)
    progress(1.0)
    return _estimates(torch.stack(rows), names)


def _probe(slopes: Sequence[Tensor], weights: Sequence[Tensor], g: torch.Generator) -> Tensor:
    """v . (H v) of every tensor for one draw of signs v: [tensors], float64."""
    signs = [(2 * torch.randint(0, 2, w.shape, generator=g) - 1).to(w) for w in weights]
    along = torch.stack([(s * v).sum() for s, v in zip(slopes, signs, strict=True)]).sum()
    bent = torch.autograd.grad(along, weights, retain_graph=True, allow_unused=True)
    return torch.stack(
        [
            v.new_zeros((), dtype=torch.float64) if h is None else (v.double() * h).sum().cpu()
            for v, h in zip(signs, bent, strict=True)
        ]
    )


def _settled(rows: Sequence[Tensor], accuracy: float) -> bool:
    if len(rows) < _LEAST:
        return False
    found = torch.stack(list(rows))
    error = found.std(0) / len(rows) ** 0.5
    return bool((error <= accuracy * found.mean(0).abs()).all())


def _estimates(rows: Tensor, names: Sequence[str]) -> dict[str, tuple[float, float]]:
    """Mean and standard error of the probes [probes, tensors]."""
    if not bool(rows.isfinite().all()):
        raise InputError(
            "the task's divergence has no finite second derivative at the original's own outputs; "
            "a Hessian trace needs one, like that of kl_to_original"
        )
    error = (
        rows.std(0) / len(rows) ** 0.5 if len(rows) > 1 else torch.full((len(names),), torch.inf)
    )
    mean = rows.mean(0).clamp(min=0)
    return {n: (float(m), float(e)) for n, m, e in zip(names, mean, error, strict=True)}
