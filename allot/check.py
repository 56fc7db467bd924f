"""Check: what a task must be before long work starts; one clear sentence where it is not."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from allot import probe
from allot.errors import DataError, InputError
from allot.ledger import sample_digests
from allot.task import Data, Inputs, Task, take

# samples run twice to tell whether the network is random; samples per call over whole sets
_TWICE, _BATCH = 32, 250


def check(task: Task) -> None:
    """Raises DataError for sets that are empty, misshapen, not finite, mislabelled or not disjoint.

    Weights, determinism and the fit of the example are checked by `trace`, which runs the network.
    """
    sets = {"calibrate": task.calibrate, "search": task.search, "certify": task.certify}
    for name, data in sets.items():
        _check_set(name, data)
    shapes = {name: _shape(data.inputs) for name, data in sets.items()}
    if len(set(shapes.values())) > 1:
        said = "; ".join(f"{n} {s}" for n, s in shapes.items())
        raise DataError(f"samples of the three sets differ in shape: {said}")
    _check_disjoint(sets)


def _check_set(name: str, data: Data) -> None:
    if len(data) == 0:
        raise DataError(f"the {name} set is empty; it needs at least one sample")
    for key, x in _tensors(data.inputs).items():
        if len(x) != len(data):
            raise DataError(f"{name} input {key} has {len(x)} samples, the first has {len(data)}")
        if x.is_floating_point() and not bool(x.isfinite().all()):
            bad = int((~x.isfinite().flatten(1).all(1)).sum())
            raise DataError(f"{bad} samples of the {name} set hold NaN or infinite values")
    if data.labels is not None and len(data.labels) != len(data):
        raise DataError(f"the {name} set has {len(data)} samples and {len(data.labels)} labels")
    if name == "search" and data.labels is not None:
        _check_classes(data.labels)


def _check_classes(labels: Tensor) -> None:
    """Raises DataError where every search sample has the same label."""
    if len(labels) > 1 and bool((labels == labels[:1]).all()):
        one = labels[0].tolist()
        raise DataError(
            f"all {len(labels)} samples of the search set have one and the same label"
            f"{f', {one}' if labels.dim() == 1 else ''}: a network that always answers so would "
            "lose nothing; give samples of several classes, or no labels to count agreement with "
            "the original instead"
        )


def _check_disjoint(sets: dict[str, Data]) -> None:
    seen: dict[str, str] = {}
    for name, data in sets.items():
        digests = set(sample_digests(data.inputs))
        for other in sorted({seen[d] for d in digests if d in seen}):
            shared = sum(seen.get(d) == other for d in digests)
            raise DataError(
                f"{shared} samples are in the {other} set and in the {name} set; a certificate "
                "needs sets that share no sample"
            )
        seen |= dict.fromkeys(digests, name)


def check_forward(task: Task) -> None:
    """Raises DataError unless the divergence and the metric work on what the network puts out.

    Raises ModelError for a network that is random or gives NaN (see `check_passes`).
    """
    check_passes(task)
    data = task.search.subset(slice(0, 2))
    with torch.no_grad():
        output = task.forward(task.model, take(data.inputs, slice(0, 2)))
    try:
        divergence = task.divergence(output, output)
        labels = task.said(output) if data.labels is None else data.labels
        score = task.score(output, labels)
    except (RuntimeError, IndexError, ValueError) as e:
        raise DataError(
            f"the task's divergence or score does not take outputs {list(output.shape)}: {e}"
        ) from e
    for name, x in (("divergence", divergence), ("score", score)):
        if x.shape != (len(data),):
            raise InputError(f"the task's {name} must be [n]; for n = 2 it is {list(x.shape)}")


def check_passes(task: Task) -> None:
    """Raises ModelError for a network that is random, or that gives NaN, on the task's own data.

    Two passes over one batch of search samples, and one pass over every set: a fault that only
    some samples bring about would otherwise show when hours are spent.
    """
    model = copy.deepcopy(task.model).eval()
    few = take(task.search.inputs, slice(0, _TWICE))
    with torch.no_grad():
        first, second = (probe.outputs(model, task.forward, few) for _ in range(2))
    probe.check_equal(first, second)
    for name in ("calibrate", "search", "certify"):
        probe.check_finite(model, task.forward, getattr(task, name), of=name, batch=_BATCH)


def _tensors(inputs: Inputs) -> dict[str, Tensor]:
    return {"": inputs} if isinstance(inputs, Tensor) else inputs


def _shape(inputs: Inputs) -> str:
    return ", ".join(f"{k or 'input'} {list(x.shape[1:])}" for k, x in _tensors(inputs).items())
