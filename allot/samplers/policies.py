"""Policies: which steps take which spans again: fixed, decided by a probe, planned, or learned."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from allot.errors import InputError
from allot.samplers.layer_correction import layers_corrected
from allot.samplers.planned import Planned, planned, with_layers
from allot.sampling.affine import corrected
from allot.sampling.channel_fits import AFFINE, MATCHED, SCALE
from allot.sampling.curves import fitted_curve
from allot.sampling.features import Features, Seeds, features
from allot.sampling.gate_training import Training, at_share, trained, values
from allot.sampling.gates import Gate
from allot.sampling.probes import IN, Probe
from allot.sampling.sampler import Sampler, Step, Way
from allot.sampling.segments import reuse_costs, segments
from allot.sampling.spans import HOLD, Predictor, Span
from allot.sampling.thresholds import for_share
from allot.sampling.triggers import Changed

# corrections (kind, placed) that were best on some network
TRIES = ((AFFINE, True), (MATCHED, True), (MATCHED, False), (SCALE, False))


def every(
    sampler: Sampler,
    seeds: Seeds | None = None,
    *,
    spans: Sequence[Span],
    interval: int,
    last: bool = False,
    predictor: Predictor = HOLD,
) -> Planned:
    """Spans are computed at every so many steps from the first on, and taken again between.

    last: the last step computes, too.  Raises InputError for an interval below 1.
    """
    if interval < 1:
        raise InputError(f"an interval of {interval} steps is none; 1 computes always")
    final = len(sampler.grid) - 1
    way = Way(reuse=dict.fromkeys(spans, predictor))
    again = [i for i in range(final + 1) if i % interval and not (last and i == final)]
    return planned(sampler, {f"steps.{i}": Step(index=i, way=way) for i in again})


def changed(
    sampler: Sampler,
    seeds: Seeds,
    *,
    span: Span,
    probe: Probe,
    share: float | None = None,
    threshold: float | None = None,
    summed: bool = False,
    degree: int | None = None,
    warm: int = 1,
    last: bool = False,
    most: int | None = None,
    predictor: Predictor = HOLD,
) -> Planned:
    """A span is computed when a probe has changed enough, decided for every sample alone.

    share, threshold: one of the two; a share of all results is what the threshold is found for.
    degree: of the polynomial fitted on the seeds, None for the plain change.  warm: steps at the
    start that compute.  last: the last step computes, too.  most: steps in a row that do not.
    """
    seen = features(sampler, seeds, spans=[span], probes=[probe])
    curve = None if degree is None else fitted_curve(seen, span, probe, degree=degree)
    coefficients = (0.0, 1.0) if curve is None else curve.coefficients
    trigger = Changed(
        probe=probe, threshold=threshold or 0.0, curve=coefficients, summed=summed, most=most
    )
    steps = range(warm, len(sampler.grid) - int(last))
    if (share is None) == (threshold is None):
        raise InputError("either a threshold or the share of results to take again is needed")
    if share is not None:
        by_condition = [v for (p, _), v in seen.probes.items() if p == probe]
        shown = [torch.cat(v) for v in zip(*by_condition, strict=True)]
        trigger = for_share(trigger, shown, sampler.grid, steps=steps, share=share)
    way = Way(reuse={span: predictor}, when={span: trigger})
    found = {"threshold": trigger.threshold} | ({} if curve is None else {"r2": curve.r2})
    return planned(sampler, {f"steps.{i}": Step(index=i, way=way) for i in steps}, found)


def segmented(
    sampler: Sampler,
    seeds: Seeds,
    *,
    span: Span,
    interval: int,
    quantized: Sampler | None = None,
    layers: Sequence[str] = (),
    relative: bool = False,
    correct: bool = True,
) -> Planned:
    """As many segments as an interval gives, cut where least is lost, what is lost corrected.

    quantized: a sampler with the network in low precision, whose results are then taken again and
    compared with the original's; None for caching alone.  layers: of the network, whose outputs are
    corrected at every step; those that read what is taken again.  correct: also what is taken again
    is corrected, per channel and step.
    """
    count, least, most = bounds(len(sampler.grid), interval)
    base = sampler if quantized is None else quantized
    truth, leaders = (features(s, seeds, spans=[span]) for s in (sampler, base))
    costs = np.sum(
        [
            reuse_costs(leaders.spans[span, c], truth.spans[span, c], relative=relative)
            for c in truth.outputs
        ],
        axis=0,
    )
    starts = segments(costs, count=count, least=least, most=most)
    way = Way(reuse={span: HOLD})
    again = [i for i in range(len(sampler.grid)) if i not in starts]
    plan = planned(base, {f"steps.{i}": Step(index=i, way=way) for i in again})
    standins: dict[str, nn.Module] = dict(plan.standins)
    if correct:
        standins |= corrected(plan.sampler, seeds)
        plan = planned(base, standins)
    if not layers:
        return plan
    fixed = layers_corrected(sampler, plan.sampler, seeds, layers=layers)
    return with_layers(plan, fixed)


def best_corrected(
    original: Sampler,
    plan: Sampler,
    seeds: Seeds,
    check: Seeds,
    *,
    tries: Sequence[tuple[str, bool]] = TRIES,
    batch: int = 64,
) -> Planned:
    """The plan with the correction, or none, whose samples come nearest to the original's.

    A correction that is better at every step may yet be worse in the end: what it takes from one
    place it may add to others, the same in every sample.  tries: (kind, placed) of `corrected`,
    fitted on the seeds.  check: other seeds, whose samples are compared; the mean squared error of
    every try is told.
    """
    wanted = sampled(original, check, batch=batch)
    plans = {"none": planned(plan, {})}
    for kind, placed in tries:
        steps = corrected(plan, seeds, kind=kind, placed=placed, batch=batch)
        plans[f"{kind}{' placed' if placed else ''}"] = planned(plan, steps)
    errors = {
        name: float((sampled(p.sampler, check, batch=batch) - wanted).square().mean())
        for name, p in plans.items()
    }
    best = plans[min(errors, key=errors.__getitem__)]
    return Planned(sampler=best.sampler, standins=best.standins, found=errors)


def sampled(sampler: Sampler, seeds: Seeds, *, batch: int = 64) -> Tensor:
    """Samples from seeds, [n, ...]."""
    with torch.no_grad():
        return torch.cat([sampler(s.noise, **s.conditions) for s in seeds.batches(batch)])


def bounds(steps: int, interval: int) -> tuple[int, int, int]:
    """Segments, and the least and most steps of one, for a mean interval N: ceil(T / N) segments
    of ceil(N / 2) to 2 N steps."""
    return math.ceil(steps / interval), math.ceil(interval / 2), 2 * interval


def gated(
    sampler: Sampler,
    seeds: Seeds,
    *,
    spans: Sequence[Span],
    training: Training,
    share: float | None = None,
    predictor: Predictor = HOLD,
) -> Planned:
    """Learned gates decide on modules at every step but the first.

    share: of results to take again, for which one threshold is found; None for the one of 0.5.
    Routers, which look at nothing, become a fixed plan.
    """
    gates = trained(sampler, seeds, spans=spans, how=training)
    probes = [Probe(module=s.modules[0], role=IN) for s in spans]
    seen = features(sampler, seeds, spans=spans, probes=probes)
    if share is not None:
        gates = at_share(gates, seen, share)
    standins = {}
    for i in range(1, len(sampler.grid)):
        mine = {s: g for (step, s), g in gates.items() if step == i}
        if not training.looks:
            mine = {s: g for s, g in mine.items() if float(g.bias.sigmoid()) > g.threshold}
        when = mine if training.looks else {}
        way = Way(reuse=dict.fromkeys(mine, predictor), when=when)
        standins[f"steps.{i}"] = Step(index=i, way=way)
    return planned(sampler, standins, {"share": _closed(gates, seen)})


def _closed(gates: Mapping[tuple[int, Span], Gate], seen: Features) -> float:
    """Share of results that gates would take again on the original's run."""
    said = values(gates, seen)
    found = [(g > gates[k].threshold).double().mean() for k, x in said.items() for g in x]
    return float(sum(found)) / len(found)
