"""By range: one part of a network for every range of steps, and quantizers of scaled tensors."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from allot.errors import ModelError
from allot.options.quantizers import Quantizer
from allot.sampling.moment import Moment


class ByRange(nn.Module):
    """One part for every range of steps; the moment says which."""

    def __init__(self, parts: Sequence[nn.Module], first: tuple[int, ...]) -> None:
        nn.Module.__init__(self)
        self.parts, self.first = nn.ModuleList(parts), first
        self.now: int | None = None

    def at(self, moment: Moment | None) -> None:
        self.now = None if moment is None else sum(moment.step >= f for f in self.first)

    def forward(self, x: Tensor) -> Tensor:
        """Raises ModelError outside of a run."""
        if self.now is None:
            raise ModelError("what is smoothed by ranges of steps computes within a run only")
        out: Tensor = self.parts[self.now](x)
        return out


class Scaled(nn.Module):
    """A quantizer of x / factor, times factor; channels last."""

    factor: Tensor

    def __init__(self, inner: nn.Module, factor: Tensor) -> None:
        nn.Module.__init__(self)
        self.inner = inner
        self.register_buffer("factor", factor)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x / self.factor) * self.factor
        return out


class QuantizerByRange(ByRange, Quantizer):
    """A tensor's quantizer for every range of steps."""
