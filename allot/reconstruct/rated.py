"""Rated: weights of a planned network learned for few bits after entropy coding.

Prices first: codes of every layer at one price of a bit, in nats of divergence, with steps that the
price asks for; the price is found at which all codes together take the bits that are given, so that
what each layer gets falls out.  Then all of the network is learned at that price.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from allot.errors import InputError
from allot.num.histogram import entropy_bits
from allot.num.rate_distortion import rated_codes, rated_scale
from allot.options.standins import QuantizedLayer, shallow
from allot.options.width import kept_positions
from allot.reconstruct.counted import descended
from allot.reconstruct.felt import Felt, felt
from allot.reconstruct.learning import Learning, Planned
from allot.recover import Correction, channel_dim, corrected, matchable, matched
from allot.sweep import Observer, observed, rewrapped, unwrapped
from allot.task import take

Standins = Mapping[str, nn.Module]
# turns in which the price is found; how near the bits then are, relative
_TURNS, _NEAR = 12, 0.004
# learning moves codes, and with them what they take: room that is left for it
_ROOM = 0.01


@dataclass(frozen=True, kw_only=True)
class Rated(Learning):
    """Codes that an entropy coder makes small (L2 compression, Shi et al. 2023).

    bits: of a weight on average over all layers in integers of few bits, by the histogram of each
    layer's codes (`allot.num.histogram.entropy_bits`), or fewer.  The plan's own integers bound
    codes from above: their width, and their steps, which get no finer.  Layers on other formats
    and in float stay as they are.
    steps: of learning, each on `batch` of the `samples` calibration inputs; 0 leaves the codes at
    what the price alone makes them.  rate: of weights, in steps of the grid; other_rate: of norms
    and biases, as they are.  features: weight of the mean error of all blocks' outputs, relative to
    their mean square, beside the divergence.

    As theirs, one transform of the weights (a step per row, zero among the codes, so that pruning
    is nothing apart) and a differentiable count of the codes' bits steer both towards what the
    coder takes least for, and one number is given for all of the network.  Deviations: they learn
    a step and a width of zero per tensor by gradients; here steps and the first codes follow from
    the curvature of the divergence, errors made up for by later columns, and the steps then stay.
    Their price of a bit is fixed and falls to a hundredth once the ratio is met; here it is the one
    at which the bits are met.  Their counter has a smooth or a triangular kernel over all
    weights, here it is triangular between neighbouring codes.  They choose three to eight layers
    whose outputs are compared; here those of all blocks are.
    """

    bits: float = 2.5
    steps: int = 200
    samples: int = 1024
    batch: int = 64
    rate: float = 0.003
    other_rate: float = 0.0003
    features: float = 10.0

    def __post_init__(self) -> None:
        if not 0 < self.bits <= 8:
            raise InputError(f"a coded weight takes above 0 and up to 8 bits; got {self.bits}")
        for name in ("samples", "batch"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} is at least 1; {getattr(self, name)} was given")
        for name in ("steps", "features"):
            if not getattr(self, name) >= 0:
                raise InputError(f"{name} is not below 0; {getattr(self, name)} was given")
        for name in ("rate", "other_rate"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} is above 0; {getattr(self, name)} was given")

    def learned(self, planned: Planned) -> dict[str, nn.Module]:
        """All layers at once; as they are where they take no more than `bits` already.

        Raises InputError for a divergence whose curvature is not known.
        """
        start = {n: m for n, m in planned.standins.items() if _coded(m) is not None}
        weights = sum(_layer(m).codes().numel() for m in start.values())
        goal = self.bits * weights
        if not start or coded_bits(start) <= goal:
            return dict(planned.standins)
        known = felt(planned, planned.standins, tuple(start), samples=self.samples)
        aim = (1 - _ROOM) * goal if self.steps else goal
        price, priced = _priced(planned, start, known, goal=aim)
        planned.progress(0.2)
        first = {**planned.standins, **priced}
        first |= _matched(planned, first, samples=self.samples)
        if not self.steps:
            return first
        found = descended(planned, first, setting=self, price=price, goal=aim)
        kept = {n: found[n] for n in start}
        return found if coded_bits(kept) <= goal else first


def _coded(module: nn.Module) -> QuantizedLayer | None:
    layer = unwrapped(module)
    return layer if isinstance(layer, QuantizedLayer) else None


def _layer(module: nn.Module) -> QuantizedLayer:
    layer = _coded(module)
    assert layer is not None
    return layer


def coded_bits(standins: Standins) -> float:
    """Bits of the codes of all layers in integers by their histograms, without the histograms."""
    layers = [x for m in standins.values() if (x := _coded(m)) is not None]
    return sum(_bits(x.codes()) for x in layers)


def _bits(codes: Tensor) -> float:
    return entropy_bits(np.unique(codes.numpy(), return_counts=True)[1].astype(np.int64))


def _priced(
    planned: Planned, start: Standins, known: Mapping[str, Felt], *, goal: float
) -> tuple[float, dict[str, nn.Module]]:
    """The least price at which all codes take no more than `goal` bits, and these codes."""
    logarithm = _first(start, known)
    low, high = -math.inf, math.inf
    best: tuple[float, dict[str, nn.Module]] | None = None
    for _ in range(_TURNS):
        price = math.exp(logarithm)
        made = {n: _at(planned, n, m, known[n], price=price) for n, m in start.items()}
        bits = coded_bits(made)
        if bits <= goal:
            best, high = (price, made), logarithm
            if bits >= (1 - _NEAR) * goal:
                break
        else:
            low = logarithm
        # twice the step is a bit less of every weight, and four times the price
        weights = sum(_layer(m).codes().numel() for m in start.values())
        step = math.log(4) * (bits - goal * (1 - _NEAR / 2)) / weights
        logarithm += math.copysign(max(abs(step), 1e-3), step)
        if not low < logarithm < high:
            logarithm = (low + high) / 2
    if best is None:
        raise InputError(
            f"{goal / 8:.0f} bytes for all codes are fewer than was found at any price of a bit; "
            "give more bits a weight"
        )
    return best


def _first(start: Standins, known: Mapping[str, Felt]) -> float:
    """Logarithm of a price to begin with: that at which the plan's own steps are right."""
    found = []
    for name, module in start.items():
        k = known[name]
        scale = rated_scale(k.gram, harm=k.harm, price=1.0)
        found.append(2 * float((_layer(module).scale.abs().double() / scale).log().mean()))
    return sum(found) / len(found)


def _at(planned: Planned, name: str, module: nn.Module, known: Felt, *, price: float) -> nn.Module:
    """A layer's stand-in with the codes of a price, inside the wrappers that it has."""
    unrounded = unwrapped(planned.bank.unrounded(name, planned.options))
    assert isinstance(unrounded, nn.Conv2d | nn.Linear)
    fmt = _layer(module).fmt
    w = unrounded.weight.detach()
    rows = w.flatten(1)
    widest = 2 * rows.abs().amax(1).double()
    scale = rated_scale(known.gram, harm=known.harm, price=price)
    scale = torch.minimum(scale, widest.clamp(min=1e-12))
    # no finer than the plan's, whose integers are as many as there are; what was matched since
    # may have stretched a layer without a norm
    own = _layer(planned.bank.standins({f"{name}.weight": planned.options[f"{name}.weight"]})[name])
    scale = torch.maximum(scale, own.scale.abs().double())
    harm = known.harm.clamp(min=0.01 * float(known.harm.mean()))
    codes = rated_codes(rows, scale, fmt, known.gram, harm=harm, price=price)
    inner = shallow(unrounded)
    coded = (codes.double() * scale[:, None]).float().view_as(w)
    inner._parameters["weight"] = nn.Parameter(coded, requires_grad=False)
    return rewrapped(module, QuantizedLayer(inner=inner, scale=scale.float(), fmt=fmt))


def _matched(planned: Planned, standins: Standins, *, samples: int) -> dict[str, nn.Module]:
    """What runs from the first stand-in on, its outputs shifted and scaled to the original's
    moments in order, as `allot.recover.recovered` does; nothing where nothing is matched."""
    bank, original = planned.bank, planned.original
    if original is None:
        return {}
    names = [n for n, event in bank.graph.order if event == "start"]
    later = {*names[min(names.index(n) for n in standins) :]}
    corrections: dict[str, Correction] = {}

    def matcher(name: str) -> Observer:
        kept = kept_positions(name, planned.options, graph=bank.graph, stats=bank.stats)
        goal = (original[name][0][kept], original[name][1][kept])

        def observe(x: Tensor) -> Tensor:
            corrections[name], y = matched(x, goal, channel_dim(bank.graph, name))
            return y

        return observe

    observers = {(n, "out"): [matcher(n)] for n in matchable(bank.graph) if n in later}
    # norms as they were before: what was matched to other codes is of no use
    plain = {n: bank.unrounded(n, planned.options) for n in bank.graph.norms if n in standins}
    fresh = {**standins, **plain}
    with bank.trial(fresh) as model, observed(model, observers), torch.no_grad():
        planned.task.forward(model, take(planned.task.calibrate.inputs, slice(0, samples)))
    return {n: corrected(fresh.get(n, bank.module(n)), c) for n, c in corrections.items()}
