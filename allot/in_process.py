"""In process: the evaluator that runs plans here, one after the other, with shared beginnings."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from allot.bank import Bank
from allot.measure import Loss, rounded
from allot.memo import Memo
from allot.recover import Moments, Recovery, moments, recovered
from allot.space import Point, Space
from allot.stream import Base, Stream
from allot.task import Data, Inputs, Task, take
from allot.trie import batch_costs, batches, opening, trie, wanted

# of the search samples: from, to
Span = tuple[int, int]
Values = dict[str, list[float]]
# what takes the outputs of a point on a piece of the samples
Each = Callable[[Point, Span, Tensor], None]


class InProcess:
    """The `Evaluator` that runs everything here; losses are those of `Meter` with this recovery.

    task, bank, data: whose plans, and the search set.  memo: keeps what was measured, under
    `key`; a resumed job reads it there, and counts it as if it had measured it.  batch: samples
    that run at once.  The original's own pass is counted at the start (`opening`); what repeats
    it for a share that cuts a batch is not.  Recovery in order cannot be shared, since it rounds
    every layer again: plans are then run one by one and cost 1 F and three times the recovery's
    samples.  Where a network decides by values what it runs, or calls its modules in an order
    that depends on them, less is replayed (`stations`): losses stay the same, and more is run
    than `costs` counts, as is the try of every boundary on the example at the start.  Raises
    ModelError where a plan makes the network put out NaN or infinite values.
    """

    def __init__(
        self,
        *,
        space: Space,
        task: Task,
        bank: Bank,
        data: Data,
        recovery: Recovery,
        memo: Memo,
        key: str = "",
        batch: int = 250,
        most_bytes: int = 2**30,
    ) -> None:
        self.space, self.task, self.bank, self.data = space, task, bank, data
        self.samples = len(data)
        self.recovery = recovery.name
        self._recovery, self._memo, self._batch = recovery, memo, batch
        self._most_bytes = most_bytes
        self._name = f"losses/{key}/{_digest(space, recovery)}"
        self._tree = trie(space)
        self._known: dict[Point, int] = {}
        self._spans: dict[Point, list[Span]] = {}
        self._spent = opening(space, samples=self.samples, calibration=self.calibration)
        self._stream: Stream | None = None
        self._moments: Moments = {}
        self._bases: dict[Span, Base] = {}
        self._originals: dict[Span, Tensor] = {}

    @property
    def spent(self) -> float:
        return self._spent

    @property
    def calibration(self) -> int:
        """Calibration inputs, in passes of one input, that recovery costs per plan."""
        inputs = min(self._recovery.samples, len(self.task.calibrate))
        if self._recovery.in_order:
            return 3 * inputs
        return inputs if self._recovery.matched else 0

    def charge(self, passes: float) -> None:
        self._spent += passes

    def costs(self, points: Sequence[Point], *, share: float = 1.0) -> list[float]:
        want = wanted(share, self.samples)
        if self._recovery.in_order:
            return self._plain_costs(points, want)
        return batch_costs(
            self._tree,
            points,
            original=self.space.original,
            known=self._known,
            want=want,
            samples=self.samples,
            calibration=self.calibration,
        )

    def _plain_costs(self, points: Sequence[Point], want: int) -> list[float]:
        found, seen = [], dict(self._known)
        for p in points:
            lacking = want - seen.get(p, 0)
            found.append((lacking + self.calibration) / self.samples if lacking > 0 else 0.0)
            seen[p] = max(want, seen.get(p, 0))
        return found

    def losses(self, points: Sequence[Point], *, share: float = 1.0) -> list[Loss]:
        want = wanted(share, self.samples)
        costs = self.costs(points, share=share)
        for done, group in batches(self._tree, points, known=self._known, want=want):
            span = (done, want)
            missing = [p for p in group if self._key(p, span) not in self._memo]
            measured = self._measured(missing, span) if missing else {}
            for p in group:
                self._memo.get(self._key(p, span), lambda p=p, m=measured: m[p])  # type: ignore
                self._spans.setdefault(p, []).append(span)
                self._known[p] = want
        self._spent += sum(costs)
        return [self._loss(p, want) for p in points]

    def lacking(self, points: Sequence[Point], *, share: float) -> list[tuple[Span, list[Point]]]:
        """What `losses` would have to run: samples, and the points whose values for them are in
        no memo, sorted so that neighbours share most."""
        want = wanted(share, self.samples)
        spans = [
            ((done, want), [p for p in group if self._key(p, (done, want)) not in self._memo])
            for done, group in batches(self._tree, points, known=self._known, want=want)
        ]
        return [(span, group) for span, group in spans if group]

    def measured(self, points: Sequence[Point], span: Span) -> dict[Point, Values]:
        """Divergences and scores of sorted points on some samples; counted and kept by no one."""
        return self._measured(points, span)

    def store(self, point: Point, span: Span, values: Values) -> None:
        """Puts what was measured elsewhere into the memo, where `losses` finds and counts it."""
        self._memo.put(self._key(point, span), values)

    def _key(self, point: Point, span: Span) -> str:
        return f"{self._name}/{'.'.join(map(str, point))}/{span[0]}-{span[1]}"

    def _loss(self, point: Point, want: int) -> Loss:
        parts = [self._memo.get(self._key(point, s), dict) for s in self._spans[point]]
        return Loss(
            divergences=tuple(v for x in parts for v in x["divergences"])[:want],
            scores=tuple(v for x in parts for v in x["scores"])[:want],
        )

    def _measured(self, points: Sequence[Point], span: Span) -> dict[Point, Values]:
        """Divergences and scores of sorted points on some samples."""
        found: dict[Point, Values] = {p: {"divergences": [], "scores": []} for p in points}
        run = self._plain if self._recovery.in_order else self._shared
        run(points, self._cut(span), lambda p, piece, y: self._add(found[p], piece, y))
        return found

    def _cut(self, span: Span) -> list[Span]:
        """The span cut where batches of the whole set end."""
        low, high = span
        ends = [*range(low - low % self._batch + self._batch, high, self._batch), high]
        return list(zip([low, *ends[:-1]], ends, strict=True))

    def _shared(self, points: Sequence[Point], pieces: Sequence[Span], each: Each) -> None:
        if self._stream is None:
            self._stream = Stream(
                self.space, self.task, self.bank,
                recovery=self._recovery, most_bytes=self._most_bytes,
            )  # fmt: skip
        corrections = self._stream.corrections(points)
        for piece in pieces:
            if piece not in self._bases:
                self._bases[piece] = self._stream.base(self._inputs(piece))
            self._stream.outputs(
                points,
                self._bases[piece],
                corrections,
                lambda i, y, piece=piece: each(points[i], piece, y),  # type: ignore[misc]
            )

    def _plain(self, points: Sequence[Point], pieces: Sequence[Span], each: Each) -> None:
        if self._recovery.matched and not self._moments:
            self._moments = moments(
                self.task, self.bank.skeleton, self.bank.graph, samples=self._recovery.samples
            )
        for p in points:
            standins = recovered(
                self.bank, self.task, self.space.options(p),
                recovery=self._recovery, original=self._moments,
            )  # fmt: skip
            for piece in pieces:
                with self.bank.trial(standins) as model, torch.no_grad():
                    y = self.task.forward(model, self._inputs(piece))
                each(p, piece, y)

    def _inputs(self, piece: Span) -> Inputs:
        return take(self.data.inputs, slice(*piece))

    def _add(self, values: Values, piece: Span, output: Tensor) -> None:
        if piece not in self._originals:
            self._originals[piece] = self._original(piece)
        original = self._originals[piece]
        labels = self.data.labels
        said = self.task.said(original) if labels is None else labels[slice(*piece)]
        values["divergences"] += rounded(self.task.divergence(original, output))
        values["scores"] += rounded(self.task.score(output, said))

    def _original(self, piece: Span) -> Tensor:
        """Outputs of the float original, apart from any stand-in: [n, ...]."""
        with torch.no_grad():
            return self.task.forward(self.task.model, self._inputs(piece))


def _digest(space: Space, recovery: Recovery) -> str:
    """Names the options that points of a space stand for."""
    options: list[Any] = [[c.site, c.tied, [o.dump() for o in c.options]] for c in space.choices]
    text = json.dumps([options, recovery.dump()], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]
