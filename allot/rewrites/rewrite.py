"""Rewrite: a change of a network, copy to copy, that leaves its output as it was."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from allot.errors import ModelError
from allot.part import Part
from allot.task import Task

# largest change of the output, relative to its largest value: re-association in float32
TOLERANCE = 1e-4
# calibration inputs on which the identity is checked
CHECKED = 8


@dataclass(frozen=True, kw_only=True)
class Rewrite(Part, ABC):
    """A change that makes a network easier to quantize and keeps what it computes."""

    @abstractmethod
    def apply(self, task: Task) -> nn.Module:
        """A new network in eval mode, a copy of `task.model` with the change.

        `task.model` is left as it is; calibration inputs may be looked at.  Raises ModelError
        where the network has nothing that the rewrite could change.
        """


def rewritten(task: Task, rewrites: Sequence[Rewrite]) -> Task:
    """The task on the network that is left by the rewrites, in order; `task` stays as it is.

    After each, the output for calibration inputs differs from that of `task.model` by at most
    1e-4 of its largest value (dtype float32; 1e-8 for float64).  Raises ModelError, naming the
    rewrite, where it does not.
    """
    if not rewrites:
        return task
    done = task
    wanted = _output(task, task.model)
    for rewrite in rewrites:
        done = replace(done, model=rewrite.apply(done))
        _check(rewrite, wanted, _output(done, done.model))
    return done


def change(wanted: Tensor, got: Tensor) -> float:
    """Largest change of an output, relative to the largest value of what was wanted."""
    if wanted.shape != got.shape:
        return float("inf")
    size = float(wanted.double().abs().max())
    return float((wanted.double() - got.double()).abs().max()) / (size or 1.0)


def _output(task: Task, model: nn.Module) -> Tensor:
    """What the network puts out in eval mode; which mode it is in stays as it was."""
    modes = {m: m.training for m in model.modules()}
    try:
        with torch.no_grad():
            return task.forward(model.eval(), task.example(CHECKED))
    finally:
        for module, training in modes.items():
            module.training = training


def _check(rewrite: Rewrite, wanted: Tensor, got: Tensor) -> None:
    found = change(wanted, got)
    limit = TOLERANCE if wanted.dtype is not torch.float64 else 1e-4 * TOLERANCE
    if not found <= limit:  # NaN is a change
        raise ModelError(
            f"{type(rewrite).__name__} changes the network's output by {found:.1e} of its largest "
            f"value, more than {limit:.0e}; leave this rewrite out"
        )
