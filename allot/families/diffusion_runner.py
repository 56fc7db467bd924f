"""Runner: a sampler whose network is files opened in a runtime, one for every variant of a step."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from allot.families.diffusion_variants import OUTPUT, Evaluation, Variant, variants
from allot.sampling.grid import Grid
from allot.sampling.moment import Moment
from allot.sampling.sampler import Dropped, Guidance, Sampler, Step, Way
from allot.sampling.spans import Kept, Predictor, Span
from allot.target import Session


@dataclass(frozen=True, kw_only=True, eq=False)
class Opened:
    """A variant in a runtime. given, told: names of inputs and outputs with results of its spans,
    by span."""

    variant: Variant
    session: Session
    given: Mapping[str, tuple[str, ...]]
    told: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True, kw_only=True, eq=False)
class Taken:
    """What a step does. reuse: spans that are left out, with what predicts them.  most: span ->
    how many of its results later steps read."""

    opened: Opened
    reuse: Mapping[Span, Predictor]
    most: Mapping[str, int]


class Files(nn.Module):
    """Files as a denoiser: x [n, ...], time [n] and conditions -> [n, ...], at a moment.

    What spans gave lies in the request, like what a network in memory keeps.
    """

    def __init__(self, steps: Mapping[int, Taken]) -> None:
        nn.Module.__init__(self)
        self._steps = dict(steps)
        self._moment: Moment | None = None

    def at(self, moment: Moment | None) -> None:
        self._moment = moment

    def forward(self, x: Tensor, time: Tensor, **conditions: Tensor) -> Tensor:
        moment = self._moment
        assert moment is not None, "files are run by a sampler, which says the moment"
        taken = self._steps[moment.step]
        inputs = {"x": x, "time": time, **conditions}
        for span in taken.opened.variant.given:
            predictor = taken.reuse[span]
            for i, name in enumerate(taken.opened.given[span.name]):
                past = moment.request.kept[_key(span.name, i, moment)]
                inputs[name] = predictor.predict(past[-predictor.needs :], moment)
        outputs = taken.opened.session.run({k: v.numpy() for k, v in inputs.items()})
        for span_name, names in taken.opened.told.items():
            for i, name in enumerate(names):
                value = torch.from_numpy(np.asarray(outputs[name]))
                _keep(_key(span_name, i, moment), i, value, moment, taken.most[span_name])
        return torch.from_numpy(np.asarray(outputs[OUTPUT]))


def _key(span: str, entry: int, moment: Moment) -> tuple[str, str, int, str]:
    return ("file", span, entry, moment.condition)


def _keep(
    key: tuple[str, str, int, str], entry: int, value: Tensor, moment: Moment, most: int
) -> None:
    past = moment.request.kept.setdefault(key, [])
    past.append(Kept(step=moment.step, log_snr=moment.level.log_snr, value=value, entry=entry))
    del past[:-most]


def runner(
    grid: Grid,
    ways: Mapping[int, Way],
    opened: Sequence[Opened],
    *,
    guidance: Guidance | None = None,
) -> Sampler:
    """The sampler of a grid that takes these steps (index -> way) with opened files."""
    by_variant = {o.variant: o for o in opened}
    # the same question as at export, of a sampler that has the ways and no network
    bare = with_ways(Sampler(denoiser=nn.Identity(), grid=grid), ways)
    steps = {}
    for i, variant in variants(bare).items():
        most = {
            s.name: max(w.reuse[s].needs for j, w in ways.items() if j > i and s in w.reuse)
            for s in variant.told
        }
        steps[i] = Taken(opened=by_variant[variant], reuse=ways[i].reuse, most=most)
    plain = {i: Way(gain_x=w.gain_x, gain_out=w.gain_out, bits=w.bits) for i, w in ways.items()}
    return with_ways(Sampler(denoiser=Files(steps), grid=grid, guidance=guidance), plain).eval()


def with_ways(sampler: Sampler, ways: Mapping[int, Way]) -> Sampler:
    """The sampler with its steps replaced, in place: those without a way are dropped."""
    for i in range(len(sampler.steps)):
        sampler.steps[i] = Step(index=i, way=ways[i]) if i in ways else Dropped()
    return sampler


def ways_of(sampler: Sampler) -> dict[int, Way]:
    """Index -> way of every step that a planned sampler takes."""
    return {s.index: s.way for s in sampler.steps if isinstance(s, Step)}


def opened(module: Evaluation, session: Session) -> Opened:
    """An exported variant and the session of its file."""
    v = module.variant
    return Opened(
        variant=v,
        session=session,
        given=by_span(v.given, module.counts, module.given()),
        told=by_span(v.told, module.counts, module.told()),
    )


def by_span(
    spans: Sequence[Span], counts: Mapping[str, int], names: Sequence[str]
) -> dict[str, tuple[str, ...]]:
    """Span -> names of its ports, from the names of all in order."""
    found, at = {}, 0
    for s in spans:
        found[s.name] = tuple(names[at : at + counts[s.name]])
        at += counts[s.name]
    return found
