"""What calibration sees of a tensor's range: channels, tokens, and a histogram of all values.

Every state is the same however the data were cut into batches.  dim: of the channels, 1 for what
convolutions read, -1 for what linears read.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from allot.errors import DataError
from allot.option import Statistic

_HALF = 4096
_LEAST = -100


@dataclass(frozen=True, kw_only=True)
class ChannelValues(Statistic):
    """Least, largest and picked values of every channel: state [samples, 2 + picks, channels].

    The picks are whole tokens or pixels, one from each stretch of a sample's, at places of the
    sample's own; all of them where there are no more than `picks`.
    """

    dim: int
    picks: int = 16

    def update(self, state: Tensor | None, x: Tensor) -> Tensor:
        c = x.shape[self.dim]
        places = x.detach().movedim(self.dim, -1).reshape(len(x), -1, c).float()
        first = 0 if state is None else len(state)
        at = [self._places(first + i, places.shape[1]) for i in range(len(places))]
        index = torch.stack(at).to(x.device)[:, :, None].expand(-1, -1, c)
        parts = [places.amin(1, True), places.amax(1, True), places.gather(1, index)]
        rows = torch.cat(parts, dim=1)
        return rows if state is None else torch.cat([state, rows])

    def _places(self, sample: int, size: int) -> Tensor:
        if size <= self.picks:
            return torch.arange(size)
        generator = torch.Generator().manual_seed(sample)
        shift = torch.rand(self.picks, generator=generator, dtype=torch.float64)
        along = (torch.arange(self.picks) + shift) * (size / self.picks)
        return along.long().clamp_max(size - 1)


@dataclass(frozen=True, kw_only=True)
class TokenExtremes(Statistic):
    """Least and largest value of every token: state [tokens, 2].

    A token is what lies along the last dim; of images (dim 1) it is the whole sample.
    """

    dim: int

    def update(self, state: Tensor | None, x: Tensor) -> Tensor:
        size = x.shape[-1] if self.dim == -1 else x[0].numel()
        tokens = x.detach().reshape(-1, size).float()
        rows = torch.stack([tokens.amin(1), tokens.amax(1)], dim=1)
        return rows if state is None else torch.cat([state, rows])


@dataclass(frozen=True, kw_only=True)
class Histogram(Statistic):
    """How many values lie in each of 8192 bins about zero: state [1 + bins], float64.

    The first entry is an exponent e: the bins part [-2^e, 2^e) evenly, and 2^e is the least power
    of two above all values.  Bins only ever merge in pairs, about zero, so counts are exact.
    Raises DataError for values that are not finite.
    """

    def update(self, state: Tensor | None, x: Tensor) -> Tensor:
        flat = x.detach().reshape(-1).double()
        if not flat.isfinite().all():
            raise DataError(not_finite(self))
        exponent = _exponent(float(flat.abs().max()))
        code = (flat * (_HALF * 2.0**-exponent)).floor().long() + _HALF
        counts = torch.bincount(code, minlength=2 * _HALF).double().cpu()
        new = torch.cat([torch.tensor([float(exponent)], dtype=torch.float64), counts])
        return new if state is None else _added(state, new)


def _exponent(top: float) -> int:
    """Of the least power of two above `top`, at least the 100th half of 1."""
    return max(math.frexp(top)[1], _LEAST) if top > 0 else _LEAST


def _added(a: Tensor, b: Tensor) -> Tensor:
    top = max(int(a[0]), int(b[0]))
    counts = _coarser(a, top) + _coarser(b, top)
    return torch.cat([counts.new_tensor([float(top)]), counts])


def _coarser(state: Tensor, exponent: int) -> Tensor:
    """Counts in the bins of a larger exponent: [bins]."""
    steps = exponent - int(state[0])
    code = torch.arange(-_HALF, _HALF).double()
    merged = (code * 2.0**-steps).floor().long() + _HALF
    return torch.zeros(2 * _HALF, dtype=torch.float64).index_add(0, merged, state[1:])


def bins(state: Tensor) -> tuple[Tensor, Tensor]:
    """Centres and counts [bins] of a histogram's state."""
    width = 2.0 ** int(state[0]) / _HALF
    return (torch.arange(-_HALF, _HALF).double() + 0.5) * width, state[1:]


def not_finite(statistic: Statistic) -> str:
    """What to say where a statistic saw NaN or infinity."""
    side = "input" if statistic.role == "in" else "output"
    return (
        f"the {side} of {statistic.module} holds NaN or infinity on the calibration data, so it "
        "has no range; leave the samples out that cause it, or keep this tensor in float"
    )
