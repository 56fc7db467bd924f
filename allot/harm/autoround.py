"""AutoRound: absolute gradient times error of weights and inputs, at each quantized network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from allot.harm.modelopt import scored, wanted
from allot.harm.walk import columns, replays, walk
from allot.harm.weights import module_of, sites, weight
from allot.option import Option
from allot.options.standins import QuantizedInput, QuantizedOutput
from allot.scene import Scene
from allot.table import Array, Table, Term
from allot.task import take


def delta_loss(
    scene: Scene,
    *,
    progress: Callable[[float], None] = lambda share: None,
    batch: int = 8,
) -> Table:
    """Sum over elements of |gradient x error| of a weight or of a quantized tensor, mean over
    batches (AutoScheme of Intel's AutoRound, "delta loss").

    For the options of one index in all choices of weights and activations (a scheme) the gradient
    is taken at the network with all of them switched on at once, through rounding as if it were
    the identity: one forward and one backward per index.  It is that of a batch's mean
    cross-entropy with the data's labels, else with what the original says.  A first-order change
    of the loss [nats] without any cancellation; no recovery.  The authors add up weights' scores
    over batches but average those of tensors: here both are means.  Choices of other kinds, which
    the method does not know, get the same of the layers' outputs at the original network, or of
    the network's outputs where it is dropped blocks or fewer tokens.

    Raises InputError for outputs that are no logits [n, classes] or [n, t, classes].
    """
    space = scene.space
    known = [i for i, c in enumerate(space.choices) if _is_precision(scene, sites(c))]
    found = _others(scene, known, batch=batch)
    schemes = max((space.counts[i] for i in known), default=0)
    for o in range(schemes):
        taken = {i: o for i in known if o < space.counts[i]}
        if not all(space.choices[i].options[o].is_original for i in taken):
            for i, value in _scores(scene, taken, batch=batch).items():
                found[i][o] = value
            scene.evaluator.charge(3)
        progress((o + 1) / schemes)
    terms = tuple(Term(at=(i,), values=v) for i, v in enumerate(found))
    return Table(unit="nat", origin="absolute gradient times error (AutoRound)", terms=terms)


def _others(scene: Scene, known: Sequence[int], *, batch: int) -> list[Array]:
    """Values of every choice: 0 for the known, the rest at outputs of the original network."""
    starts = np.cumsum([0, *scene.space.counts])
    skip = {k for i in known for k in range(starts[i], starts[i + 1])}
    local, whole = columns(scene)
    local = {k: group for k, group in local.items() if k not in skip}
    whole = {k: o for k, o in whole.items() if k not in skip}
    totals = np.zeros(starts[-1])

    def each(rows: slice, column: int, gradients: Tensor, change: Tensor) -> None:
        totals[column] += float((gradients[0] * change).abs().double().sum())

    def along(output: Tensor, rows: slice) -> Tensor:
        positions = output[0].numel() // output.shape[-1]
        wrong = scored(output) - wanted(output, scene.data, rows)
        for column, options in whole.items():
            with scene.bank.trial(scene.bank.standins(options)) as model, torch.no_grad():
                after = scene.task.forward(model, take(scene.data.inputs, rows))
            each(rows, column, wrong[None] / positions, after - output)
        return wrong[None] / positions

    if local or whole:
        walk(scene, local, data=scene.data, directions=along, each=each, batch=batch)
        scene.evaluator.charge(3 + len(whole) + replays(scene, local))
    return [totals[a:b] / len(scene.data) for a, b in pairwise(starts)]


def _is_precision(scene: Scene, names: tuple[str, ...]) -> bool:
    return all(scene.space.graph.site(n).kind in ("weight", "activation") for n in names)


def _scores(scene: Scene, taken: Mapping[int, int], *, batch: int) -> dict[int, float]:
    """Choice -> score of its option, with all options taken switched on."""
    choices = {i: scene.space.choices[i] for i in taken}
    of = {s: c.options[taken[i]] for i, c in choices.items() for s in sites(c)}
    standins = scene.bank.standins(of)
    felt = Felt(scores=dict.fromkeys(of, 0.0))
    starts = range(0, len(scene.data), batch)
    for start in starts:
        rows = slice(start, min(start + batch, len(scene.data)))
        inputs = take(scene.data.inputs, rows)
        with torch.no_grad():
            right = wanted(scene.task.forward(scene.bank.skeleton, inputs), scene.data, rows)
        with scene.bank.trial(standins) as model, _feeling(scene, standins, of, felt):
            with torch.enable_grad():
                output = scene.task.forward(model, inputs)
            mean = (scored(output.detach()) - right) * (output.shape[-1] / output.numel())
            leaves = [*felt.weights.values(), *felt.leaves]
            grads = torch.autograd.grad(output, leaves, mean, allow_unused=True)
        for (name, w), g in zip(felt.weights.items(), grads, strict=False):
            before = weight(scene.bank.module(module_of(scene.bank.graph, name)))
            if g is not None:
                felt.scores[name] += float((g * (before - w)).detach().abs().double().sum())
    return {i: sum(felt.scores[s] for s in sites(c)) / len(starts) for i, c in choices.items()}


@dataclass(kw_only=True, eq=False)
class Felt:
    """scores: of every site so far.  weights: of weight sites, taking gradients.  leaves: tensors
    cut from what came before them, which took none."""

    scores: dict[str, float]
    weights: dict[str, Tensor] = field(default_factory=dict)
    leaves: list[Tensor] = field(default_factory=list)


@contextmanager
def _feeling(
    scene: Scene, standins: Mapping[str, nn.Module], options: Mapping[str, Option], felt: Felt
) -> Iterator[None]:
    """Gradients reach the weights, and every quantized tensor adds its score, for a while."""
    handles: list[RemovableHandle] = []
    try:
        for name, option in options.items():
            site = scene.space.graph.site(name)
            for touch in () if option.is_original else site.touches:
                module = standins[touch.module]
                if site.kind == "weight":
                    felt.weights[name] = weight(module).requires_grad_()
                else:
                    kind = QuantizedInput if touch.role == "in" else QuantizedOutput
                    edge = next(m for m in module.modules() if isinstance(m, kind))
                    handles += _watch(edge, name, felt)
        yield
    finally:
        for h in handles:
            h.remove()
        for w in felt.weights.values():
            w.requires_grad_(False)
        felt.leaves.clear()


def _watch(edge: nn.Module, site: str, felt: Felt) -> list[RemovableHandle]:
    """Adds |gradient x error| of the tensor that a wrapper quantizes."""
    before: list[Tensor] = []

    def keep(x: Tensor) -> None:
        before[:] = [x.detach().clone()]

    def watch(q: Tensor) -> Tensor:
        if not q.requires_grad:
            felt.leaves.append(q.detach().requires_grad_())
            q = felt.leaves[-1].clone()
        error = before[0] - q.detach()

        def arrived(g: Tensor) -> None:
            felt.scores[site] += float((g * error).abs().double().sum())

        q.register_hook(arrived)
        return q

    inner = edge.get_submodule("inner")
    if isinstance(edge, QuantizedInput):
        return [
            edge.register_forward_pre_hook(lambda m, a: keep(a[0])),
            inner.register_forward_pre_hook(lambda m, a: (watch(a[0]), *a[1:])),
        ]
    return [
        inner.register_forward_hook(lambda m, a, y: keep(y)),
        edge.register_forward_hook(lambda m, a, y: watch(y)),
    ]
