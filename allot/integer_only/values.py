"""Integer values: real tensors as sums of integer tensors, put into integers when that is due.

A rescale waits until the scale of its result is known, so that a residual sum is rounded once.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from allot.errors import InputError, ModelError
from allot.integer_only.graph import MaxPool, Operation, Rescale, Span, Term, Window
from allot.num.dyadic import dyadic

Floats = NDArray[np.float64]
# an int32 tensor between layers lies within 2^30: sums of few of them are far from 2^63
WIDE = 2**30


@dataclass(frozen=True, kw_only=True, eq=False)
class Summand:
    """scale * (tensor - zero), scale [n] per channel or [1]."""

    tensor: str
    zero: int
    scale: Floats


@dataclass(frozen=True, kw_only=True, eq=False)
class Real:
    """clip(sum of summands + constant, low, high), then the largest in every window of `pools`.

    constant: [n] or [1].
    """

    summands: tuple[Summand, ...]
    constant: Floats = field(default_factory=lambda: np.zeros(1))
    low: float = -math.inf
    high: float = math.inf
    pools: tuple[Window, ...] = ()


@dataclass(kw_only=True, eq=False)
class Draft:
    """A graph as far as it is written.

    shapes: of float tensors, without the batch.  kinds: "uint8", "int32" or "int64" of integer
    ones.  wide: float tensor -> itself as one integer tensor (`as_plain`).
    """

    shapes: Mapping[str, tuple[int, ...]]
    operations: list[Operation] = field(default_factory=list)
    spans: dict[str, Span] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    wide: dict[str, Real] = field(default_factory=dict)

    def add(self, operation: Operation, span: Span, kind: str) -> str:
        """Writes an operation and what its output can hold; the output's name."""
        self.operations.append(operation)
        self.spans[operation.output], self.kinds[operation.output] = span, kind
        return operation.output

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of a float tensor without its batch; raises ModelError where it is not known."""
        if name not in self.shapes:
            raise ModelError(f"the shape of {name} is not known beforehand; integers need it")
        return self.shapes[name]


def plain(real: Real) -> bool:
    """Whether it is one integer tensor with one scale above 0, and nothing else."""
    one = len(real.summands) == 1 and real.summands[0].scale.size == 1
    bare = one and not real.constant.any() and not real.pools
    clipped = math.isfinite(real.low) or math.isfinite(real.high)
    return bare and not clipped and float(real.summands[0].scale[0]) > 0


def reach(draft: Draft, real: Real) -> tuple[float, float]:
    """Least and largest value that it can have: proven, not seen."""
    low, high = real.constant, real.constant
    for s in real.summands:
        ends = [s.scale * (end - s.zero) for end in draft.spans[s.tensor]]
        low, high = low + np.minimum(*ends), high + np.maximum(*ends)
    cut = np.array([low.min(), high.max()]).clip(real.low, real.high)
    return float(cut[0]), float(cut[1])


def clipped(draft: Draft, real: Real, low: float, high: float) -> Real:
    """Clipped to low..high as well; a bound that nothing reaches is left out."""
    least, most = reach(draft, real)
    # the later clip wins: a value above `high` is `high` whatever was before
    low = -math.inf if low <= least else low
    high = math.inf if high >= most else high
    return replace(
        real,
        low=min(max(real.low, low), high),
        high=max(min(real.high, high), low),
    )


def as_codes(
    draft: Draft, real: Real, *, output: str, scale: float, zero: int, span: Span, where: str
) -> str:
    """Writes it as uint8 codes of a scale and zero point within `span`; the tensor's name.

    A pool is taken over codes: the largest value has the largest code.
    """
    name = f"{output}.rescaled" if real.pools else output
    _rescale(draft, real, output=name, scale=scale, zero=zero, span=span, kind="uint8", where=where)
    for i, window in enumerate(real.pools):
        after = output if i + 1 == len(real.pools) else f"{output}.pooled{i}"
        name = draft.add(MaxPool(input=name, output=after, window=window), span, "uint8")
    return output


def as_plain(draft: Draft, real: Real, *, name: str, step: float | None = None) -> Real:
    """It as one tensor of one scale: itself, or int32 of a scale that its reach fits.

    name: of the float tensor it stands for.  step: the scale, where it is given; then int32.
    Raises ModelError for a pooled tensor that is not quantized.
    """
    if step is None and (plain(real) or name in draft.wide):
        return real if plain(real) else draft.wide[name]
    if real.pools:
        raise ModelError(
            f"the max pool before {name} has a result that is not quantized, which has no integer "
            "form; quantize the tensor after the pool"
        )
    output = f"{name}.wide{'' if step is None else len(draft.operations)}"
    scale = wide_step(draft, real) if step is None else step
    low, high = reach(draft, real)
    span = math.floor(low / scale), math.ceil(high / scale)
    _rescale(draft, real, output=output, scale=scale, zero=0, span=span, kind="int32", where=name)
    found = Real(summands=(Summand(tensor=output, zero=0, scale=np.array([scale])),))
    if step is None:
        draft.wide[name] = found
    return found


def wide_step(draft: Draft, real: Real) -> float:
    """The scale at which its reach just fits an int32 tensor between layers."""
    return max(map(abs, reach(draft, real))) / WIDE or 1.0


def _rescale(
    draft: Draft, real: Real, *, output: str, scale: float, zero: int, span: Span, kind: str,
    where: str,
) -> None:  # fmt: skip
    """Writes the one dyadic rescale of a sum; raises ModelError where its factors do not fit."""
    spans = [draft.spans[s.tensor] for s in real.summands]
    width = max(real.constant.size, *(s.scale.size for s in real.summands))
    ratios = np.stack([np.broadcast_to(s.scale / scale, (width,)) for s in real.summands])
    far = [max(b - s.zero, s.zero - a) for s, (a, b) in zip(real.summands, spans, strict=True)]
    try:
        found = dyadic(ratios, reach=far, offset=real.constant / scale)
    except InputError as e:
        raise ModelError(f"the rescale at {where} has no integer form: {e}") from e
    low = _code(real.low, scale, zero, span) if math.isfinite(real.low) else span[0]
    high = _code(real.high, scale, zero, span) if math.isfinite(real.high) else span[1]
    terms = tuple(
        Term(tensor=s.tensor, zero=s.zero, factors=f)
        for s, f in zip(real.summands, found.factors, strict=True)
    )
    # channels lie in dim 1, whatever follows; one factor for all fits any rank
    rank = 1 if width == 1 else len(draft.shape(where)) + 1
    operation = Rescale(
        output=output, terms=terms, offset=found.offset, shift=found.shift, zero=zero, low=low,
        high=high, kind=kind, rank=rank,
    )  # fmt: skip
    draft.add(operation, (low, high), kind)


def _code(value: float, scale: float, zero: int, span: Span) -> int:
    """The code that a bound of a clip is rounded to: rounding keeps order, so it clips the same."""
    return min(max(math.floor(value / scale + 0.5) + zero, span[0]), span[1])
