"""HIGGS: how fast the divergence grows with noise in one weight, times an option's error."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from allot.harm.alone import completed, in_measured_unit
from allot.harm.weights import copies, modules, weigh_by, weight, weight_choices
from allot.scene import Scene
from allot.sweep import outputs
from allot.table import Table

_BATCH = 250


def higgs(
    scene: Scene,
    *,
    levels: Sequence[float] = (0.05, 0.1, 0.2),
    samples: int = 256,
    progress: Callable[[float], None] = lambda share: None,
) -> Table:
    """alpha times the relative squared error of the weight [nats] (linearity theorem of
    Malinovskii et al. 2024), summed over tied sites.

    The error is that of the option as the bank encodes it; where that is rounded for the layer's
    inputs it does much less harm than noise of its size.  Linear in the squared error, which the
    authors claim for 3 to 5 bits.  What is no weight is measured one at a time, and then sets the
    unit (`in_measured_unit`).  For the keywords see `slopes`.
    """
    at = weight_choices(scene.space)
    names = modules(scene.space, at)
    alphas = slopes(scene, names, levels=levels, samples=samples, progress=progress)
    norms = {n: float(weight(scene.bank.module(n)).double().square().sum()) for n in names}
    factors = {n: alphas[n] / norms[n] if norms[n] else 0.0 for n in names}
    values = {i: weigh_by(scene.bank, scene.space.choices[i], factors) for i in at}
    return completed(
        scene, in_measured_unit(scene, values), origin="linear in relative squared weight error"
    )


def slopes(
    scene: Scene,
    names: Sequence[str],
    *,
    levels: Sequence[float] = (0.05, 0.1, 0.2),
    samples: int = 256,
    progress: Callable[[float], None] = lambda share: None,
) -> dict[str, float]:
    """Module -> alpha, the divergence [nats] per relative squared error of its weight.

    Gaussian noise of relative size t is added to one weight at a time, another draw for every
    t in `levels`; alpha is the least-squares line through 0 of divergence over t^2.  Measured
    without recovery on the first `samples` of the search data, where the authors take the
    perplexity.  Costs a forward pass per module and level on these samples.
    """
    data = scene.data.subset(slice(0, samples))
    share = len(data) / len(scene.data)
    g = torch.Generator().manual_seed(scene.seed)
    original = outputs(scene.task, scene.bank.skeleton, data, batch=_BATCH)
    scene.evaluator.charge(share)
    found = {}
    for k, name in enumerate(names):
        losses = []
        for t in levels:
            noisy = copies(scene.bank, [name])
            _add_noise_(weight(noisy[name]), t, g)
            with scene.bank.trial(noisy) as model:
                output = outputs(scene.task, model, data, batch=_BATCH)
            losses.append(float(scene.task.divergence(original, output).double().mean()))
            scene.evaluator.charge(share)
        found[name] = _line([t * t for t in levels], losses)
        progress((k + 1) / len(names))
    return found


def _add_noise_(w: Tensor, size: float, g: torch.Generator) -> None:
    """Adds noise whose norm is `size` times that of w, in place."""
    noise = torch.randn(w.shape, generator=g, dtype=torch.float64).to(w.device)
    with torch.no_grad():
        w += (noise * (size * w.double().norm() / noise.norm())).to(w)


def _line(x: Sequence[float], y: Sequence[float]) -> float:
    """Least-squares slope through 0."""
    return sum(a * b for a, b in zip(x, y, strict=True)) / sum(a * a for a in x)
