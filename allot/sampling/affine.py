"""Affine: a prediction corrected per channel, in closed form from the original's own steps."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from allot.errors import ModelError
from allot.sampling.channel_fits import AFFINE, Sums, fitted, sums
from allot.sampling.features import Features, Seeds, features
from allot.sampling.history import past
from allot.sampling.moment import Moment, Request
from allot.sampling.sampler import Sampler, Step
from allot.sampling.spans import Kept, Predictor, Span


class Affine(nn.Module):
    """gain * p + shift per channel of what another predictor p says, at one step.

    fits: condition -> (gain, shift), which spread over [n, ...], for every tensor that leaves the
    span; they count among the step's weights.  since: the step whose result p continues.
    """

    def __init__(
        self, *, base: Predictor, since: int, fits: Mapping[str, Sequence[tuple[Tensor, Tensor]]]
    ) -> None:
        nn.Module.__init__(self)
        self.base, self.since = base, since
        for condition, pairs in fits.items():
            for i, (gain, shift) in enumerate(pairs):
                self.register_buffer(f"gain_{condition}_{i}", gain.float())
                self.register_buffer(f"shift_{condition}_{i}", shift.float())

    @property
    def label(self) -> str:
        return f"{self.base.label}-affine"

    @property
    def needs(self) -> int:
        return self.base.needs

    def predict(self, past: Sequence[Kept], moment: Moment) -> Tensor:
        """Raises ModelError where it continues another step than it was fitted on."""
        now = past[-1]
        if now.step != self.since:
            raise ModelError(
                f"the correction at step {moment.step} was fitted on results of step {self.since}, "
                f"not {now.step}; fit it again for this plan"
            )
        name = f"{moment.condition}_{now.entry}"
        gain, shift = self.get_buffer(f"gain_{name}"), self.get_buffer(f"shift_{name}")
        x = self.base.predict(past, moment)
        return gain.to(x.dtype) * x + shift.to(x.dtype)


@dataclass(frozen=True, kw_only=True)
class Place:
    """A span that a step reuses by plan. leaders: the steps before it that computed the span."""

    step: int
    span: Span
    predictor: Predictor
    leaders: tuple[int, ...]


def corrected(
    sampler: Sampler,
    seeds: Seeds,
    *,
    towards: Sampler | None = None,
    kind: str = AFFINE,
    placed: bool = False,
    batch: int = 64,
) -> dict[str, Step]:
    """Steps ("steps.i") that reuse spans by a fixed plan, their predictors corrected.

    Fitted on runs of the sampler's network with every step computed: at each step that reuses, what
    the predictor says there from the last steps that compute, against what the span gives.
    towards: what it gives in another sampler's network, as the one that was quantized.  kind,
    placed: see `fitted` and `sums`.  Left out are other steps, spans that are decided on while
    sampling, and those predicted from nothing.  Raises ModelError where no step computes a span
    before another reuses it.
    """
    places = reused(sampler)
    found: dict[tuple[Place, str], list[Sums]] = {}
    spans = tuple(dict.fromkeys(p.span for p in places))
    for some in seeds.batches(batch):
        seen = features(sampler, some, spans=spans)
        true = seen if towards is None else features(towards, some, spans=spans)
        for key in ((p, c) for p in places for c in seen.outputs):
            new = [sums(x, y, placed=placed) for x, y in _pairs(sampler, seen, true, *key)]
            old = found.get(key)
            found[key] = new if old is None else [a + b for a, b in zip(old, new, strict=True)]
    steps = dict.fromkeys(p.step for p in places)
    return {f"steps.{i}": _step(sampler, i, found, kind) for i in steps}


def reused(sampler: Sampler) -> list[Place]:
    """What is reused by plan, and predicted from earlier results; step by step."""
    leaders: dict[Span, list[int]] = {}
    places: list[Place] = []
    taken = [s for s in sampler.steps if isinstance(s, Step)]
    for s in taken:
        for span in dict.fromkeys(span for t in taken for span in t.way.reuse):
            predictor = s.way.reuse.get(span)
            if predictor is None:
                leaders.setdefault(span, []).append(s.index)
            elif span not in s.way.when and predictor.needs:
                mine, plain = tuple(leaders.get(span, ())), base_of(predictor)
                places.append(Place(step=s.index, span=span, predictor=plain, leaders=mine))
    return places


def base_of(predictor: Predictor) -> Predictor:
    """What a correction corrects; the predictor itself where it is none."""
    return predictor.base if isinstance(predictor, Affine) else predictor


def _pairs(
    sampler: Sampler, seen: Features, true: Features, place: Place, condition: str
) -> Iterator[tuple[Tensor, Tensor]]:
    """Predicted and true, of every tensor that leaves the span."""
    if not place.leaders:
        raise ModelError(
            f"step {place.step} reuses {place.span.name}, which no step before it computed"
        )
    level = sampler.grid.level(place.step)
    moment = Moment(step=place.step, level=level, request=Request(), condition=condition)
    entries, needs = seen.spans[place.span, condition], place.predictor.needs
    read = [entries[i] for i in place.leaders[-needs:]]
    for i, truth in enumerate(true.spans[place.span, condition][place.step].values):
        yield place.predictor.predict(past(read, None, i), moment), truth


def _step(
    sampler: Sampler, index: int, found: Mapping[tuple[Place, str], list[Sums]], kind: str
) -> Step:
    old = sampler.get_submodule(f"steps.{index}")
    assert isinstance(old, Step)
    reuse = dict(old.way.reuse)
    for place in dict.fromkeys(p for p, _ in found if p.step == index):
        fits = {c: [fitted(s, kind) for s in v] for (p, c), v in found.items() if p == place}
        reuse[place.span] = Affine(base=place.predictor, since=place.leaders[-1], fits=fits)
    return Step(index=index, way=replace(old.way, reuse=reuse))
