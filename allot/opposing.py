"""Opposing: pairs of samples whose gradients are outlying and point against each other."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from allot.selection import pooled
from allot.sweep import Observer, observed
from allot.task import Data, Inputs, Task, take

# cosine at most, and norms at least so many times what this share of the samples stays below
OPPOSED, LARGE, MOST = -0.9, 3.0, 0.9
# samples whose gradients are taken one by one, where no closed form is known
_ONE_BY_ONE = 512


def pairs(gram: Tensor) -> Tensor:
    """Pairs [m, 2] of samples i < j that oppose; gram: products of their gradients [n, n].

    Their cosine is at most -0.9 and both norms are at least 3 times what nine tenths of the
    samples stay below.  Rosenfeld and Risteski 2023 find groups of such samples by how losses
    change from one step of training to the next; here nothing is trained, so the gradients
    themselves are compared.
    """
    if not len(gram):
        return torch.zeros(0, 2, dtype=torch.int64)
    norms = gram.diagonal().clamp(min=0).sqrt()
    large = (norms >= LARGE * norms.quantile(MOST)) & (norms > 0)
    against = gram <= OPPOSED * norms[:, None] * norms
    return (against & large & large[:, None]).triu(1).nonzero()


@dataclass(frozen=True, kw_only=True, eq=False)
class Pass:
    """What a pass has shown.  outputs: of the network, means over tokens or places [n, d].
    rows: whether the network puts out just that, one row of numbers per sample.  last: name of the
    last module with parameters of its own to end, "" where there is none.  inputs: its inputs
    [n, d] where it is linear on rows and puts out the network's output, else None.
    """

    outputs: Tensor
    rows: bool
    last: str
    inputs: Tensor | None


def passed(task: Task, data: Data, *, batch: int = 128) -> Pass:
    """One pass over the data, in eval mode on a copy."""
    model = copy.deepcopy(task.model).eval()
    last, linear = _last(task, model, take(data.inputs, slice(0, 2)))
    inputs: list[Tensor] = []
    means: list[Tensor] = []
    rows = True
    with observed(model, {(last, "in"): [_into(inputs)]} if linear else {}), torch.no_grad():
        for part in data.batches(batch):
            output = task.forward(model, part)
            rows = rows and output.dim() == 2 and output.is_floating_point()
            means.append(pooled(output))
    found = torch.cat(inputs) if linear else None
    return Pass(outputs=torch.cat(means), rows=rows, last=last, inputs=found)


def products(task: Task, data: Data, seen: Pass) -> Tensor | None:
    """Products of per-sample gradients of the cross-entropy at the last layer, [n, n] in float64.

    In closed form where the last layer is linear on rows; else by autograd at the last module
    with parameters, for the first 512 samples.  None for data without class labels and for
    networks that do not put out one row of logits per sample: they have no such gradients.
    """
    labels, logits = data.labels, seen.outputs
    if labels is None or not (seen.rows and seen.last) or not _classes(labels, logits.shape[1]):
        return None
    layer = task.model.get_submodule(seen.last)
    if seen.inputs is not None:
        return in_closed_form(seen.inputs, logits, labels, bias=layer.bias is not None)
    names = [f"{seen.last}.{n}".lstrip(".") for n, _ in layer.named_parameters(recurse=False)]
    return by_autograd(task, data.subset(slice(0, _ONE_BY_ONE)), names)


def in_closed_form(inputs: Tensor, logits: Tensor, labels: Tensor, *, bias: bool) -> Tensor:
    """The products at a linear layer that puts out the logits: [n, d], [n, c], [n] -> [n, n].

    The gradient of one sample is (softmax - one hot) outer input, and the former by the bias: a
    product of two gradients is one of errors times one of inputs (plus 1).
    """
    error = logits.double().softmax(1)
    error[torch.arange(len(error)), labels] -= 1
    x = inputs.double()
    return (error @ error.T) * (x @ x.T + float(bias))


def _classes(labels: Tensor, classes: int) -> bool:
    """Whether these are a class for each sample."""
    whole = labels.dim() == 1 and not labels.is_floating_point()
    return whole and bool(((labels >= 0) & (labels < classes)).all())


def by_autograd(task: Task, data: Data, names: Sequence[str]) -> Tensor:
    """The products by the named parameters, [n, n]: a pass for each sample, on a copy in eval."""
    assert data.labels is not None
    model = copy.deepcopy(task.model).eval().requires_grad_(False)
    wanted = [model.get_parameter(n).requires_grad_(True) for n in names]
    rows = []
    for i in range(len(data)):
        logits = task.forward(model, take(data.inputs, slice(i, i + 1)))
        loss = nn.functional.cross_entropy(logits, data.labels[i : i + 1])
        found = torch.autograd.grad(loss, wanted, allow_unused=True, materialize_grads=True)
        rows.append(torch.cat([g.flatten().double() for g in found]))
    gradients = torch.stack(rows)
    return gradients @ gradients.T


def _last(task: Task, model: nn.Module, example: Inputs) -> tuple[str, bool]:
    """The last module with parameters to end, and whether it is linear on rows [n, d] and puts out
    what the network does; "" and False for a network without parameters."""
    seen: dict[str, Any] = {}
    own = [n for n, m in model.named_modules() if [*m.parameters(recurse=False)]]

    def kept(name: str) -> Observer:
        def keep(x: Any) -> None:
            seen.pop(name, None)
            seen[name] = x

        return keep

    with observed(model, {(n, "out"): [kept(n)] for n in own}), torch.no_grad():
        output = task.forward(model, example)
    if not seen:
        return "", False
    name, x = list(seen.items())[-1]
    linear = isinstance(model.get_submodule(name), nn.Linear) and x.dim() == 2
    return name, linear and torch.equal(x, output)


def _into(found: list[Tensor]) -> Observer:
    def keep(x: Tensor) -> None:
        found.append(x.detach())

    return keep
