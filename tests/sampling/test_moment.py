"""Moments are told and forgotten; levels know their signal-to-noise ratio.

Faults that these tests must find: a module that is told of a moment and never of its end; half the
logarithm taken for the whole.
"""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from allot.sampling.moment import Level, Moment, Request, Timed, told


class Listening(nn.Module):
    def __init__(self) -> None:
        nn.Module.__init__(self)
        self.moments: list[Moment | None] = []

    def at(self, moment: Moment | None) -> None:
        self.moments.append(moment)

    def forward(self, x: Tensor) -> Tensor:
        return x


def moment() -> Moment:
    return Moment(step=0, level=Level(time=1.0, signal=0.6, noise=0.8), request=Request())


def test_only_modules_that_can_be_told_are_timed() -> None:
    assert isinstance(Listening(), Timed)
    assert not isinstance(nn.Linear(1, 1), Timed)


def test_every_timed_module_is_told_and_untold() -> None:
    network = nn.Sequential(Listening(), nn.Sequential(nn.ReLU(), Listening()))
    now = moment()
    heard = [m for m in network.modules() if isinstance(m, Listening)]
    with told(network, now):
        assert [[now], [now]] == [m.moments for m in heard]
    assert [[now, None], [now, None]] == [m.moments for m in heard]


def test_an_error_inside_unsays_it() -> None:
    network = Listening()
    with pytest.raises(RuntimeError), told(network, moment()):
        raise RuntimeError
    assert network.moments[-1] is None


def test_requests_share_nothing() -> None:
    a, b = Request(), Request()
    a.kept["x", 1] = torch.zeros(1)
    assert {} == b.kept


def test_half_the_logarithm_of_the_ratio_of_powers() -> None:
    level = Level(time=0.0, signal=0.6, noise=0.8)
    assert math.isclose(0.5 * math.log(0.6**2 / 0.8**2), level.log_snr)
    assert math.inf == Level(time=0.0, signal=1.0, noise=0.0).log_snr
    assert -math.inf == Level(time=0.0, signal=0.0, noise=1.0).log_snr
