"""Space: what may be chosen in a sampler: bits of weights and tensors, and what every step does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from allot.num.formats import UInt
from allot.num.live_ranges import AtRunTime
from allot.option import Option
from allot.options.by_step import ByStep
from allot.options.precision import Weight
from allot.options.sharing import PerToken
from allot.options.steps import Compute, Drop, Reuse
from allot.options.tensors import ActivationFormat
from allot.sampling.spans import HOLD, Predictor, Span, Taylor
from allot.site import Graph
from allot.space import Choice, Space
from allot.target import Target

# what integers on an accelerator multiply; formats stored in fewer bits compute in these
BITS = (8, 4)


def live(bits: int) -> ActivationFormat:
    """Unsigned integers, the range of every token (of a convolution's input: sample) its own."""
    return ActivationFormat(grid=UInt(bits=bits), sharing=PerToken(), ranges=AtRunTime())


def fixed(bits: int) -> ActivationFormat:
    """Unsigned integers, one range for the tensor, of least squared error over all steps."""
    return ActivationFormat(grid=UInt(bits=bits))


def whole(graph: Graph, target: Target, *, sets: Mapping[str, Sequence[Span]]) -> Space:
    """All that a target has kernels for: bits, steps, and reuse of spans.

    sets: name -> spans that are left out together.

    A CPU's integers have 8 bits, and ranges that are known beforehand.
    """
    bits = [b for b in BITS if b in target.activation_bits()]
    found = precision(graph, target, bits=BITS, tensors=bits)
    found = found + steps(graph, target, bits=bits, sets=sets, predictors=(HOLD, Taylor()))
    # what it says of tensors is of one file for all moments
    return found.only(lambda o, site: target.can(o, site, graph) if o.kind == "weight" else "")


def precision(
    graph: Graph, target: Target, *, bits: Sequence[int] = BITS, tensors: Sequence[int] = BITS
) -> Space:
    """Weights in so many bits at all steps, tensors in as many as each step says, or float.

    tensors: bits that steps may ask for; where 8 alone, ranges are known beforehand.
    """
    form = fixed if tuple(tensors) == (8,) else live
    choices = []
    for site in graph.sites:
        if site.fixed or site.kind not in ("weight", "activation"):
            continue
        options: tuple[Option, ...] = (Weight(bits=32), *(Weight(bits=b) for b in bits))
        if site.kind == "activation":
            options = (ByStep(), ByStep(formats=tuple(form(b) for b in tensors)))
        choices.append(Choice(site=site.name, options=options, tied=target.tied(site, graph)))
    return Space(graph=graph, choices=tuple(choices))


def steps(
    graph: Graph,
    target: Target,
    *,
    bits: Sequence[int] = BITS,
    spans: Sequence[Span] = (),
    sets: Mapping[str, Sequence[Span]] = MappingProxyType({}),
    predictors: Sequence[Predictor] = (HOLD,),
    drop: bool = True,
    always: Sequence[int] = (0,),
) -> Space:
    """What every step does: computes in so many bits, reuses a span, or is left out.

    spans: each of which may be left out alone.  sets: name -> spans that are left out together.
    always: steps that are taken whole; the first has nothing before it to lead on or reuse.
    """
    sites = [s for s in graph.sites if s.kind == "step"]
    whole: tuple[Option, ...] = (Compute(), *(Compute(bits=b) for b in bits))
    groups = {s.name: (s,) for s in spans} | {k: tuple(v) for k, v in sets.items()}
    cheaper: list[Option] = [
        Reuse(name=k, spans=g, predictor=p, bits=b)
        for b in bits for p in predictors for k, g in groups.items()
    ]  # fmt: skip
    if drop:
        cheaper.append(Drop())
    choices = [
        Choice(site=s.name, options=whole if i in always else (*whole, *cheaper))
        for i, s in enumerate(sites)
    ]
    return Space(graph=graph, choices=tuple(choices))
