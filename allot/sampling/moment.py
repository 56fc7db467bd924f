"""Moment: where in its steps a sampler stands; said by the sampler, never counted by modules."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class Level:
    """A level of noise: x = signal * sample + noise * epsilon.

    time: what the network is told of it.
    """

    time: float
    signal: float
    noise: float

    @property
    def log_snr(self) -> float:
        """Half the logarithm of the signal-to-noise ratio; infinite where there is no noise."""
        if self.noise == 0:
            return math.inf
        return math.log(self.signal / self.noise) if self.signal > 0 else -math.inf


@dataclass(frozen=True, kw_only=True, eq=False)
class Request:
    """One run of a sampler on one batch. kept: what its modules keep until it ends, by name,
    condition and whatever else tells one thing from another."""

    kept: dict[tuple[Any, ...], Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, eq=False)
class Moment:
    """One evaluation of the network.

    step: position in the sampler's grid.  level: of the noise there.  condition: name of the
    condition it runs under ("" without guidance).  request: the run that it belongs to.  bits: of
    the integers that tensors between layers are rounded to now; None leaves them in float.
    conditions: what the network is told besides x and time, [n, ...] each.
    """

    step: int
    level: Level
    request: Request
    condition: str = ""
    bits: int | None = None
    conditions: Mapping[str, Tensor] = field(default_factory=dict)


@runtime_checkable
class Timed(Protocol):
    """A module that computes differently from moment to moment."""

    def at(self, moment: Moment | None) -> None:
        """Told before the network is evaluated, and told None afterwards."""


@contextmanager
def told(network: nn.Module, moment: Moment) -> Iterator[None]:
    """Every timed module inside a network knows the moment, for a while."""
    timed = [m for m in network.modules() if isinstance(m, Timed)]
    try:
        for m in timed:
            m.at(moment)
        yield
    finally:
        for m in timed:
            m.at(None)
