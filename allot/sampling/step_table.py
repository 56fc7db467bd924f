"""Step table: what a module gave at every step and for every class, in its place."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from allot.errors import ModelError, PlanError
from allot.sampling.bound import bound_step
from allot.sampling.moment import Moment
from allot.sampling.nested import first_input, refilled


class StepTable(nn.Module):
    """What a module gave at every step and for every class, looked up.

    values: tensors that it returned, [steps, classes, ...] each.  shape: their nest.  keys:
    [classes], or None where there is but one row.  by: the condition that says the class.
    """

    times: Tensor

    def __init__(
        self, *, values: Sequence[Tensor], shape: Any, times: Tensor, keys: Tensor | None, by: str
    ) -> None:
        nn.Module.__init__(self)
        self.shape, self.by = shape, by
        self.count = len(values)
        for i, v in enumerate(values):
            self.register_buffer(f"values_{i}", v.detach().clone())
        self.register_buffer("keys", keys)
        self.register_buffer("times", times)
        self.now: tuple[int, Tensor | None] | None = None

    def at(self, moment: Moment | None) -> None:
        """Raises PlanError for other steps, or a class that the table lacks."""
        self.now = None
        if moment is None:
            return
        step = bound_step(self.times, moment, what="tables of time were")
        keys = self._buffers["keys"]
        self.now = (step, None if keys is None else self._rows(moment.conditions[self.by], keys))

    def _rows(self, labels: Tensor, keys: Tensor) -> Tensor:
        index = torch.searchsorted(keys, labels).clamp(max=len(keys) - 1)
        if not torch.equal(keys[index], labels):
            lacks = sorted(set(labels.tolist()) - set(keys.tolist()))
            raise PlanError(f"tables of time were found without {self.by} {lacks}; fold these in")
        return index

    def forward(self, *args: Any, **named: Any) -> Any:
        if self.now is None:
            raise ModelError("a module folded over the steps of a sampler has no value outside one")
        (step, rows), n = self.now, len(first_input(args, named))
        if rows is not None and len(rows) != n:
            raise ModelError(
                f"{n} of {len(rows)} samples are computed where time is folded for classes; reuse "
                "spans for whole batches, or leave time unfolded"
            )
        found = [self.get_buffer(f"values_{i}")[step] for i in range(self.count)]
        picked = (v.expand(n, *v.shape[1:]) if rows is None else v[rows] for v in found)
        return refilled(self.shape, iter(picked))


class Unread(nn.Module):
    """Where a module was whose results nothing reads any more: zeros of their shape.

    shapes: of one sample.
    """

    def __init__(self, *, shapes: Sequence[torch.Size], shape: Any, fill: float = 0.0) -> None:
        nn.Module.__init__(self)
        self.shapes, self.shape, self.fill = tuple(shapes), shape, fill

    def forward(self, *args: Any, **named: Any) -> Any:
        x = first_input(args, named)
        like = torch.zeros((), device=x.device)
        made = (like.new_full((1,) * (len(s) + 1), self.fill) for s in self.shapes)
        return refilled(
            self.shape,
            iter([m.expand(len(x), *s) for m, s in zip(made, self.shapes, strict=True)]),
        )
