"""Oracles of DGQ's choice of axis: it follows the outliers, per tensor, and pays.

Faults these must catch: one axis for all tensors; a tensor that is left as it was.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from allot.num.activation_ranges import MinMax
from allot.num.formats import UInt
from allot.options.outlier_axis import OutlierAxis
from allot.options.quantizers import (
    FormattedInput,
    FormattedOutput,
    PlaceQuantizer,
    StaticQuantizer,
)
from allot.options.tensors import ActivationFormat
from allot.recipes.bits import Bits
from allot.recipes.outliers import dgq
from allot.scheme import Quantized, Scheme, quantized
from allot.task import Task
from tests import small, toys

TOKENS, WIDTH = 16, 8


class Mixer(nn.Module):
    """Patches [n, 16, 8] read twice: once with a channel that is loud, once with a token."""

    def __init__(self) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, WIDTH, 2, stride=2)
        self.relu1, self.relu2 = nn.ReLU(), nn.ReLU()
        self.first, self.second = nn.Linear(WIDTH, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, 5)
        channel, token = torch.ones(1, 1, WIDTH), torch.ones(1, TOKENS, 1)
        channel[..., 3], token[:, 9] = 50, 50
        self.register_buffer("channel", channel)
        self.register_buffer("token", token)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = self.first(self.relu1(x * self.channel))
        x = self.second(self.relu2(x * self.token))
        return self.head((x / self.token).mean(1))


def mixer() -> nn.Module:
    model = toys.seeded(Mixer())
    with torch.no_grad():
        model.first.weight[:, 3] /= 50  # type: ignore[union-attr, index, operator]
    return model


def loss(task: Task, found: Quantized) -> float:
    x = task.search.inputs
    with torch.no_grad():
        wanted, got = task.model(x), task.forward(found.network(), x)
    return float(task.divergence(wanted, got).mean())


def test_every_tensor_gets_the_axis_of_its_outliers() -> None:
    found = quantized(small.task(mixer), dgq(Bits(activation=4)))
    kinds = {}
    for name in ("first.input", "second.input"):
        (touch,) = found.graph.site(name).touches
        edge = found.bank.standins({name: found.options[name]})[touch.module]
        assert isinstance(edge, FormattedInput | FormattedOutput)
        kinds[name] = type(edge.quantizer)
        assert 3 <= len(edge.quantizer.get_buffer("scale").unique()) <= 8
    assert kinds == {"first.input": StaticQuantizer, "second.input": PlaceQuantizer}


@pytest.mark.parametrize("bits", (4, 6))
def test_it_loses_less_than_one_range_for_a_tensor(bits: int) -> None:
    task, scheme = small.task(mixer), dgq(Bits(weight=8, activation=bits))
    whole = ActivationFormat(grid=UInt(bits=bits), ranges=MinMax())
    plain: Scheme = replace(scheme, activation=whole)
    assert loss(task, quantized(task, scheme)) < 0.25 * loss(task, quantized(task, plain))


def test_tensors_may_stay_in_float() -> None:
    assert dgq(Bits(activation=16)).activation is None
    assert isinstance(dgq(Bits()).activation, OutlierAxis)
