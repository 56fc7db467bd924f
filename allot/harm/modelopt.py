"""ModelOpt: the two scores of NVIDIA's auto_quantize: squared gradient times error, and KL."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from allot.errors import InputError
from allot.harm.alone import completed
from allot.harm.single import measured, only
from allot.harm.walk import columns, replays, walk
from allot.scene import Scene
from allot.table import Array, Table, Term
from allot.task import Data


def squared_gradient(
    scene: Scene,
    *,
    progress: Callable[[float], None] = lambda share: None,
    batch: int = 64,
) -> Table:
    """Half the sum over elements of (gradient x error)^2 at the outputs of the layers that an
    option touches, mean over samples (auto_quantize, method "gradient").

    The gradient is that of the cross-entropy with the data's labels, at the original network;
    where there are no labels, with what the network itself says.  In nats as far as labels are
    drawn as the network believes and elements do not meet; the method's own score is this times a
    constant.  Errors without recovery.  An activation's error stands at its own tensor, where the
    method takes the output of the layer that reads it.  Choices it does not know (dropped blocks,
    fewer tokens) are measured one at a time, which has the same unit.

    Raises InputError for outputs that are no logits [n, classes] or [n, t, classes].
    """
    local, whole = columns(scene)
    totals = np.zeros(sum(scene.space.counts))

    def each(rows: slice, column: int, gradients: Tensor, change: Tensor) -> None:
        totals[column] += 0.5 * float((gradients[0] * change).double().square().sum())

    def along(output: Tensor, rows: slice) -> Tensor:
        positions = output[0].numel() // output.shape[-1]
        return (scored(output) - wanted(output, scene.data, rows))[None] / positions**0.5

    walk(
        scene,
        local,
        data=scene.data,
        directions=along,
        each=each,
        batch=batch,
        progress=progress,
    )
    scene.evaluator.charge(3 + replays(scene, local))
    origin = "squared gradient times output error (ModelOpt)"
    return completed(scene, by_choice(scene, totals / len(scene.data), set(whole)), origin=origin)


def by_choice(scene: Scene, values: Array, missing: set[int]) -> dict[int, Array]:
    """Choice -> values of its options, for choices of which no column is missing."""
    starts = np.cumsum([0, *scene.space.counts])
    spans = {i: range(starts[i], starts[i + 1]) for i in range(len(scene.space.counts))}
    return {i: values[list(span)] for i, span in spans.items() if not missing & set(span)}


def kl(scene: Scene, *, progress: Callable[[float], None] = lambda share: None) -> Table:
    """Divergence [nats] with one option switched on, everything else as in the first point
    (auto_quantize, method "kl_div").

    The method picks the plan whose largest score is least, not the least sum: its own solver is
    part of it.  Scores are taken after the evaluator's recovery, as all measurements here are, and
    not clipped.
    """
    space = scene.space
    where = [(i, o) for i, n in enumerate(space.counts) for o in range(1, n)]
    points = [space.original, *(only(space.original, dict([w])) for w in where)]
    base, *found = measured(scene, points, progress=progress)
    values = [np.zeros(n) for n in space.counts]
    for (i, o), divergence in zip(where, found, strict=True):
        values[i][o] = divergence - base
    origin = f"KL one at a time, {scene.evaluator.recovery} (ModelOpt)"
    terms = tuple(Term(at=(i,), values=v) for i, v in enumerate(values))
    return Table(unit="nat", origin=origin, constant=base, terms=terms)


def scored(output: Tensor) -> Tensor:
    """Probabilities of classes; raises InputError for outputs that are no logits."""
    if output.dim() not in (2, 3):
        raise InputError(
            "cross-entropy needs logits [n, classes] or [n, t, classes]; the outputs are "
            f"{list(output.shape)}"
        )
    return torch.softmax(output, -1)


def wanted(output: Tensor, data: Data, rows: slice) -> Tensor:
    """1 at the class of the data's label, or of the network's own answer, else 0: like output."""
    said = output.argmax(-1)
    labels = None if data.labels is None else data.labels[rows]
    right = said if labels is None or labels.shape != said.shape else labels.to(said)
    return nn.functional.one_hot(right, output.shape[-1]).to(output)
