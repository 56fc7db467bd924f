"""Passage: what happens to one span in one evaluation: computed, taken again, or either by row."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from allot.errors import ModelError
from allot.sampling.history import History, past
from allot.sampling.moment import Moment
from allot.sampling.nested import holes, refilled, tensors
from allot.sampling.probes import Watch
from allot.sampling.spans import RESIDUAL, Predictor, Span
from allot.sampling.triggers import Notes, Trigger


@dataclass(kw_only=True, eq=False)
class Passage:
    """A span in one evaluation of its network.

    predictor: gives its result where it is not computed; None where it is for all samples.
    trigger: decides for which, None for none.  most: earlier results that later steps read; with 0
    nothing is kept.  watching: triggers of later steps that compare with this one, where all
    samples are computed.  rows: of samples that are computed, None for all.
    """

    span: Span
    moment: Moment
    predictor: Predictor | None = None
    trigger: Trigger | None = None
    most: int = 0
    watching: tuple[Trigger, ...] = ()
    watch: Watch = field(default_factory=Watch)
    entered: Tensor | None = None
    rows: Tensor | None = None

    @property
    def history(self) -> History:
        """What the request knows of the span under this condition."""
        key = ("span", self.span.name, self.moment.condition)
        found: History = self.moment.request.kept.setdefault(key, History())
        return found

    @property
    def hollow(self) -> Mapping[str, Any]:
        """Module of the span -> what it returns, tensors left out, as far as that is known."""
        return {**getattr(self.predictor, "hollow", {}), **self.history.hollow}

    @property
    def x(self) -> Tensor:
        """The first argument of the span's first module, [n, ...]."""
        assert self.entered is not None
        return self.entered

    def enter(self, x: Tensor, run: Callable[[], Any]) -> None:
        """Decides which rows are computed, once the span's input [n, ...] is known.

        run: calls its first module, for probes inside it.
        """
        self.entered, self.rows = x, None
        if self.predictor is None:
            return
        again = torch.ones(len(x), dtype=torch.bool, device=x.device)
        if self.trigger is not None:
            probe = self.trigger.probe
            seen = x.detach() if probe is None else self.watch.value(probe, run)
            again = self.trigger.decided(seen, self._notes(self.trigger), self.moment)
            again = again & (self.predictor.needs == 0 or self.history.complete)
            self._note(self.trigger, seen, again)
        if not bool(again.any()):
            return
        self.rows = (~again).nonzero()[:, 0]

    def _key(self, trigger: Trigger) -> tuple[Any, ...]:
        return ("notes", self.span.name, self.moment.condition, trigger.remembers)

    def _notes(self, trigger: Trigger) -> Notes | None:
        return self.moment.request.kept.get(self._key(trigger))

    def _note(self, trigger: Trigger, seen: Tensor, again: Tensor | None) -> None:
        if trigger.remembers is not None:
            notes = trigger.noted(seen, self._notes(trigger), again)
            self.moment.request.kept[self._key(trigger)] = notes

    def leave(self, out: Any) -> Any:
        """What goes on, from what the computed rows gave; `out` itself where all were."""
        whole = out
        for t in self.watching:
            # the probe was computed by now, if it is at all
            seen = self.x if t.probe is None else self.watch.value(t.probe, lambda: None)
            self._note(t, seen.detach(), None)
        if self.rows is not None:
            whole = refilled(out, iter(self._with_others(tensors(out), self.rows)))
        if self.most:
            self.history.add(self.moment, self._kept(out), self.rows, len(self.x))
            self.history.forget(self.most)
        return whole

    def _kept(self, out: Any) -> list[Tensor]:
        found = tensors(out)
        if self.span.keeps != RESIDUAL:
            return found
        entered = self.x if self.rows is None else self.x[self.rows]
        if len(found) != 1 or found[0].shape != entered.shape:
            raise ModelError(
                f"what span {self.span.name} adds is not known: {len(found)} tensors leave it, the "
                f"first {list(found[0].shape)}, and {list(entered.shape)} enters; keep its output"
            )
        return [found[0] - entered]

    def _with_others(self, computed: Sequence[Tensor], rows: Tensor) -> list[Tensor]:
        """[rows, ...] computed -> [n, ...], the other rows predicted."""
        others = torch.ones(len(self.x), dtype=torch.bool, device=rows.device)
        others[rows] = False
        rest = others.nonzero()[:, 0]
        found = []
        for mine, other in zip(computed, self.predicted(rest), strict=True):
            whole = mine.new_empty((len(self.x), *mine.shape[1:]))
            whole[rows], whole[rest] = mine, other
            found.append(whole)
        return found

    def predicted(self, rows: Tensor | None) -> list[Tensor]:
        """What leaves the span without computing it, tensors [rows, ...].

        Raises ModelError where a sample has no earlier result in this request and condition.
        """
        assert self.predictor is not None
        if self.predictor.needs and not self.history.complete:
            raise ModelError(
                f"step {self.moment.step} reuses {self.span.name}, which no step before it computed"
            )
        shape = self.hollow.get(self.span.modules[-1])
        entered = self.x if rows is None else self.x[rows]
        found = []
        for entry in range(1 if shape is None else holes(shape)):
            value = self._value(rows, entry)
            if self.span.keeps == RESIDUAL:
                value = entered + value
            elif value.dim() == 0:
                value = value.expand(entered.shape)
            found.append(value.expand(len(entered), *value.shape[1:]))
        return found

    def _value(self, rows: Tensor | None, entry: int) -> Tensor:
        """What is kept of the span, as it is predicted for now: [rows, ...] or fewer dims."""
        predictor, moment = self.predictor, self.moment
        assert predictor is not None
        if predictor.needs == 0:
            return predictor.predict((), moment)
        found: list[tuple[Tensor | None, Tensor]] = []
        for some, entries in self.history.alike(rows):
            read = past(entries[-predictor.needs :], some, entry)
            found.append((some, predictor.predict(read, moment)))
        if len(found) == 1:
            return found[0][1]
        one = found[0][1]
        whole = one.new_empty((len(self.x), *one.shape[1:]))
        for some, value in found:
            whole[some] = value
        return whole if rows is None else whole[rows]
