"""Rolled: plans of a sampler measured by sampling with them, from the original's own noise."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import torch
from torch import Tensor

from allot.bank import Bank
from allot.measure import Loss, rounded
from allot.memo import Memo
from allot.options.steps import StepOption
from allot.space import Point, Space
from allot.task import Data, Task


class Rolled:
    """The `Evaluator` of samplers: F is one run of the original from all noises of the data.

    The loss of a plan is taken over the whole set at once, as some losses of sets of samples are
    no means over samples.  data: inputs of the task, noise and conditions.  batch: samples that
    run at once.  A plan is counted as the share of steps that it takes.
    """

    recovery = "no recovery"

    def __init__(
        self, *, space: Space, task: Task, bank: Bank, data: Data, memo: Memo, key: str = "search",
        batch: int = 64,
    ) -> None:  # fmt: skip
        self.space, self.task, self.bank, self.data = space, task, bank, data
        self.samples = len(data)
        self._memo, self._batch = memo, batch
        options = [[c.site, c.tied, [o.dump() for o in c.options]] for c in space.choices]
        text = json.dumps(options, sort_keys=True)
        self._name = f"rolled/{key}/{hashlib.sha256(text.encode()).hexdigest()[:16]}"
        self._known: dict[Point, int] = {}
        self._originals: dict[int, Tensor] = {}
        self._spent = 1.0

    @property
    def spent(self) -> float:
        return self._spent

    def charge(self, passes: float) -> None:
        """Counts work that a signal does on its own [F]."""
        self._spent += passes

    def costs(self, points: Sequence[Point], *, share: float = 1.0) -> list[float]:
        """F that `losses` would spend on each of the points."""
        want, seen, found = self._wanted(share), dict(self._known), []
        for p in points:
            found.append(self._taken(p) * max(0, want - seen.get(p, 0)) / self.samples)
            seen[p] = max(want, seen.get(p, 0))
        return found

    def losses(self, points: Sequence[Point], *, share: float = 1.0) -> list[Loss]:
        """Losses of the points on the first share of the samples, in the order given."""
        want = self._wanted(share)
        self._spent += sum(self.costs(points, share=share))
        found = []
        for p in points:
            self._known[p] = max(want, self._known.get(p, 0))
            name = f"{self._name}/{'.'.join(map(str, p))}/{want}"
            kept = self._memo.get(name, lambda p=p: self._measured(p, want))  # type: ignore[misc]
            found.append(Loss(divergences=tuple(kept["divergences"]), scores=tuple(kept["scores"])))
        return found

    def samples_of(self, point: Point, data: Data | None = None) -> Tensor:
        """What the sampler makes under a plan, [n, ...]; of the evaluator's data by default."""
        standins = self.bank.standins(self.space.options(point))
        rows = []
        with self.bank.trial(standins) as model, torch.no_grad():
            for batch in (data or self.data).batches(self._batch):
                rows.append(self.task.forward(model, batch))
        return torch.cat(rows)

    def _measured(self, point: Point, want: int) -> dict[str, list[float]]:
        data = self.data.subset(slice(0, want))
        if want not in self._originals:
            self._originals[want] = self.samples_of(self.space.original, data)
        original, found = self._originals[want], self.samples_of(point, data)
        return {
            "divergences": rounded(self.task.divergence(original, found)),
            "scores": rounded(self.task.score(found, original)),
        }

    def _wanted(self, share: float) -> int:
        return max(1, round(share * self.samples))

    def _taken(self, point: Point) -> float:
        """Share of the steps at which the network runs."""
        options = [c.options[i] for c, i in zip(self.space.choices, point, strict=True)]
        steps = [o for o in options if isinstance(o, StepOption)]
        return sum(o.taken for o in steps) / len(steps) if steps else 1.0
