"""Sampler: a denoising network and its steps as one module, from noise to a sample."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from allot.errors import ModelError
from allot.sampling.faulty import first_faulty
from allot.sampling.grid import Grid, Seen, stacked
from allot.sampling.moment import Moment, Request, told
from allot.sampling.passage import Passage
from allot.sampling.passing import passed
from allot.sampling.spans import Predictor, Span
from allot.sampling.triggers import Trigger


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """Classifier-free guidance (Ho and Salimans 2022): without + scale * (with - without).

    scale: strength.  without: conditions of the evaluation without one; a number stands for every
    sample.
    """

    scale: float
    without: Mapping[str, Tensor | int | float]


@dataclass(kw_only=True, eq=False)
class State:
    """A run on its way. x: [n, ...], at the level of the latest evaluation (the start's before the
    first).  conditions: what the network is told besides x and time.  past: evaluations."""

    x: Tensor
    conditions: Mapping[str, Tensor]
    request: Request
    past: list[Seen] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Way:
    """How one step is taken.

    reuse: spans that are left out, with what predicts them.  when: what decides of some of them,
    sample by sample, whether they are left out after all.  bits: of tensors between layers while
    it is taken, None for float.  gain_x, gain_out: what the network's input and its output are
    multiplied with (after Q-Sched, Frumkin and Marculescu 2025).
    """

    reuse: Mapping[Span, Predictor] = field(default_factory=dict)
    when: Mapping[Span, Trigger] = field(default_factory=dict)
    bits: int | None = None
    gain_x: float = 1.0
    gain_out: float = 1.0


WHOLE = Way()


class Step(nn.Module):
    """One step of a sampler, taken in a way; an option puts another one in its place."""

    def __init__(self, *, index: int, way: Way = WHOLE) -> None:
        nn.Module.__init__(self)
        self.index, self.way = index, way
        fitted = (*way.reuse.values(), *way.when.values())
        self.fitted = nn.ModuleList(m for m in fitted if isinstance(m, nn.Module))

    def forward(self, sampler: Sampler, state: State) -> State:
        """Moves x to this step's level and evaluates the network there."""
        grid, way = sampler.grid, self.way
        level = grid.level(self.index)
        state.x = way.gain_x * grid.move(state.x, state.past, level)
        outputs = {}
        for name, conditions in sampler.conditions(state).items():
            moment = Moment(
                step=self.index, level=level, request=state.request, condition=name, bits=way.bits,
                conditions=conditions,
            )  # fmt: skip
            with told(sampler.denoiser, moment), sampler.spanned(way, moment):
                outputs[name] = sampler.evaluate(state.x, moment, conditions)
        state.past.append(grid.read(state.x, way.gain_out * sampler.guided(outputs), level))
        return state


class Dropped(nn.Module):
    """A step that is not taken: the one before it leads on to the one after it."""

    def forward(self, sampler: Sampler, state: State) -> State:
        return state


class Sampler(nn.Module):
    """A denoiser and the steps of a grid: noise [n, ...] and conditions to samples [n, ...].

    denoiser: called as denoiser(x, time [n], **conditions) -> [n, ...].  spans: those that steps
    may leave out; their results are kept only while a later step may ask.
    """

    levels: Tensor

    def __init__(
        self,
        *,
        denoiser: nn.Module,
        grid: Grid,
        guidance: Guidance | None = None,
        spans: tuple[Span, ...] = (),
    ) -> None:
        nn.Module.__init__(self)
        self.denoiser, self.grid, self.guidance, self.spans = denoiser, grid, guidance, spans
        self.steps = nn.ModuleList(Step(index=i) for i in range(len(grid)))
        # part of the state: plans are bound to the weights, and so to these levels
        self.register_buffer("levels", stacked(grid))

    def forward(self, noise: Tensor, **conditions: Tensor) -> Tensor:
        """Samples of one batch; every run is a request of its own."""
        return self.run(noise, conditions, Request())

    def run(self, noise: Tensor, conditions: Mapping[str, Tensor], request: Request) -> Tensor:
        """Samples of one batch; what its modules keep can be looked up in the request."""
        state = State(x=self.grid.start * noise, conditions=conditions, request=request)
        for step in self.steps:
            state = step(self, state)
        end = self.grid.level(len(self.grid))
        return self.grid.move(state.x, state.past, end, last=True)

    def conditions(self, state: State) -> dict[str, Mapping[str, Tensor]]:
        """Name of a condition -> what the network is told; two of them under guidance."""
        if self.guidance is None:
            return {"": state.conditions}
        n = len(state.x)
        without = {
            k: torch.full((n,), v, device=state.x.device) if not isinstance(v, Tensor)
            else v.expand(n, *v.shape[1:]) for k, v in self.guidance.without.items()
        }  # fmt: skip
        return {"with": state.conditions, "without": {**state.conditions, **without}}

    def guided(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """One output of those under every condition."""
        if self.guidance is None:
            return outputs[""]
        apart = outputs["with"] - outputs["without"]
        return outputs["without"] + self.guidance.scale * apart

    def evaluate(self, x: Tensor, moment: Moment, conditions: Mapping[str, Tensor]) -> Tensor:
        """The network at a moment; raises ModelError for what is not finite."""
        time = torch.full((len(x),), moment.level.time, device=x.device)
        output: Tensor = self.denoiser(x, time, **conditions)
        if not bool(output.isfinite().all()):
            where = f"step {moment.step} (time {moment.level.time:g})"
            if not bool(x.isfinite().all()):
                raise ModelError(f"the latents that enter {where} hold NaN or infinite values")
            module = first_faulty(self.denoiser, lambda: self.denoiser(x, time, **conditions))
            raise ModelError(
                f"the network's output at {where} holds NaN or infinite values, first in the "
                f"output of {module or 'the network itself'}"
            )
        return output

    @contextmanager
    def spanned(self, way: Way, moment: Moment) -> Iterator[None]:
        """Spans left out as the step's way says; the results of all others kept where a later
        step asks for them."""
        later = self._later(moment.step)
        passages = [
            Passage(
                span=span,
                moment=moment,
                predictor=way.reuse.get(span),
                trigger=way.when.get(span),
                most=max((w.reuse[span].needs for w in later if span in w.reuse), default=0),
                watching=self._watching(span, later) if span not in way.reuse else (),
            )
            for span in dict.fromkeys((*way.reuse, *(s for w in later for s in w.reuse)))
        ]
        with passed(self.denoiser, passages):
            yield

    def _later(self, step: int) -> list[Way]:
        """Ways of the steps still to come."""
        return [s.way for s in self.steps[step + 1 :] if isinstance(s, Step)]

    def _watching(self, span: Span, later: list[Way]) -> tuple[Trigger, ...]:
        """Triggers that compare what they see with earlier steps, of one kind the first."""
        found = [w.when[span] for w in later if span in w.when]
        return tuple({t.remembers: t for t in found if t.remembers is not None}.values())
