"""ZeroQ: divergence on distilled inputs with one option switched on, without any real data."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from allot.harm.weights import sites
from allot.option import Option
from allot.scene import Scene
from allot.sweep import outputs
from allot.synthesis import single, synthesize
from allot.table import Table, Term
from allot.task import Data


def zeroq(
    scene: Scene,
    *,
    samples: int = 64,
    steps: int = 200,
    mean: float = 0.0,
    deviation: float = 1.0,
    progress: Callable[[float], None] = lambda share: None,
) -> Table:
    """Divergence from the original [nats] of every option alone on distilled inputs, without
    recovery (Cai et al. 2020, eq. 4).

    All kinds of options, tied sites together; every option against the float original, the first
    one too.  mean, deviation: of the network's input, 0 and 1 where it is standardized.  Of the
    search data only the shape is read.  Raises InputError like `synthesize`.
    """
    bank, data = scene.bank, scene.data
    x = synthesize(
        bank.skeleton,
        bank.graph,
        single(data),
        samples=samples,
        steps=steps,
        seed=scene.seed,
        mean=mean,
        deviation=deviation,
        forward=scene.task.forward,
        progress=lambda share: progress(share / 2),
    )
    scene.evaluator.charge((3 * steps + 1) * samples / len(data))
    made = Data(inputs=x)
    original = outputs(scene.task, bank.skeleton, made, batch=samples)
    terms = []
    for i, choice in enumerate(scene.space.choices):
        harms = [
            _harm(scene, dict.fromkeys(sites(choice), o), made, original) for o in choice.options
        ]
        terms.append(Term(at=(i,), values=np.array(harms)))
        progress(0.5 + (i + 1) / len(scene.space.choices) / 2)
    return Table(unit="nat", origin="one at a time on distilled inputs", terms=tuple(terms))


def _harm(scene: Scene, options: dict[str, Option], data: Data, original: Tensor) -> float:
    """Mean divergence of the options on the data, 0 for originals."""
    if all(o.is_original for o in options.values()):
        return 0.0
    with scene.bank.trial(scene.bank.standins(options)) as model, torch.no_grad():
        found = outputs(scene.task, model, data, batch=len(data))
    scene.evaluator.charge(len(data) / len(scene.data))
    return float(scene.task.divergence(original, found).double().mean())
