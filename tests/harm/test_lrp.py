"""Laws of relevance: what leaves the output arrives at every layer; errors are relative.

Faults these laws must catch: the gradient of another logit; a relevance halved by batches; a
tensor looked at after what works in place; the share of a plan's unit measured twice.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from allot.harm.lrp import lrp, relevances
from allot.scene import Scene
from allot.task import Data
from tests import toys
from tests.harm import laws, scenes


@pytest.mark.parametrize("law", laws.ADDITIVE)
def test_it_is_a_signal(law: object) -> None:
    law(lrp)  # type: ignore[operator]


def test_progress() -> None:
    laws.progresses(lambda s, f: lrp(s, batch=6, progress=f))


class Unbiased(nn.Module):
    """Convolutions, ReLU in place, a shortcut and a linear, all without bias but the last."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(6, 6, 3, padding=1, bias=False)
        self.conv3 = nn.Conv2d(6, 4, 3, stride=2, bias=False)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.relu(self.conv1(x))
        x = self.relu(self.conv2(x))
        return self.head(self.relu(self.conv3(x)).mean((2, 3)))


def unbiased() -> Scene:
    s = scenes.scene(lambda: toys.seeded(Unbiased()))
    s.bank.skeleton.get_parameter("head.bias").data.zero_()
    return s


LAYERS = ("conv1", "conv2", "conv3", "head")
PLACES = [(n, r) for n in LAYERS for r in ("in", "out")]


@pytest.mark.parametrize("batch", (3, 64))
def test_relevance_is_conserved_without_biases(batch: int) -> None:
    s = unbiased()
    logit = float(s.bank.skeleton(s.data.inputs).max(1).values.mean())
    for signed, positive in relevances(s, PLACES, batch=batch).values():
        assert signed == pytest.approx(logit, rel=1e-4)
        assert positive >= signed


def test_nothing_cancels_where_all_is_positive() -> None:
    """With weights that are never negative nothing cancels: both parts are the logit."""
    s = unbiased()
    for p in s.bank.skeleton.parameters():
        p.data.abs_()
    s = replace(s, data=Data(inputs=s.data.inputs.abs()))  # type: ignore[union-attr]
    for signed, positive in relevances(s, PLACES).values():
        assert positive == pytest.approx(signed, rel=1e-4)


def test_each_place_is_where_it_says() -> None:
    """At the output layer the relevance of the winning logit is that logit and no other's."""
    s = scenes.scene(toys.chain)
    output = s.bank.skeleton(s.data.inputs)
    ((signed, positive),) = relevances(s, [("head", "out")]).values()
    assert signed == pytest.approx(float(output.max(1).values.mean()), rel=1e-5)
    assert positive == pytest.approx(float(output.max(1).values.clamp(min=0).mean()), rel=1e-5)


def test_a_tensor_is_judged_by_its_own_relative_error() -> None:
    s = laws.scene("activation")
    table = lrp(s)
    flows = relevances(s, [(x.module, "out") for x in s.bank.graph.layers])
    whole = sum(p for _, p in flows.values())
    i = next(i for i, c in enumerate(s.space.choices) if c.site == "conv1.input")
    place = s.bank.graph.site("conv1.input").touches[0]
    share = relevances(s, [(place.module, place.role)])[place.module, place.role][1] / whole
    x = s.data.inputs
    for o, option in enumerate(s.space.choices[i].options[1:], start=1):
        standin = s.bank.standins({"conv1.input": option})[place.module]
        error = standin.quantize(x) - x  # type: ignore[operator]
        want = share * float(error.square().sum() / x.square().sum())  # type: ignore[union-attr]
        assert table.terms[i].values[o] == pytest.approx(want, rel=1e-4)


def test_other_kinds_set_the_unit_by_one_measured_plan() -> None:
    both, alone = laws.scene("weight", "channels", labels=MANY), laws.scene("weight")
    table, plain = lrp(both), lrp(alone)
    weights = [i for i, c in enumerate(both.space.choices) if c.site.endswith("weight")]
    ratios = [
        table.terms[i].values[1:] / p.values[1:] for i, p in zip(weights, plain.terms, strict=True)
    ]
    assert np.concatenate(ratios) == pytest.approx(ratios[0][0], rel=1e-9)
    middle = tuple(
        len(c.options) // 2 if i in weights else 0 for i, c in enumerate(both.space.choices)
    )
    measured = both.evaluator.losses([middle])[0].divergence
    assert table.of(middle) == pytest.approx(measured, rel=1e-9)


def test_a_forward_and_a_backward_pass_are_charged() -> None:
    s = scenes.scene(toys.chain)
    relevances(s, PLACES[:2], samples=5)
    assert s.evaluator.spent == pytest.approx(3 * 5 / len(s.data))


class Joined(nn.Module):
    """Two branches, the second added to the first in place."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 6, 3, bias=False)
        self.conv2 = nn.Conv2d(3, 6, 3, bias=False)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv1(x)
        y += self.conv2(x)
        return self.head(torch.relu(y).mean((2, 3)))


def test_branches_share_what_their_sum_gets() -> None:
    s = scenes.scene(lambda: toys.seeded(Joined()))
    s.bank.skeleton.get_parameter("head.bias").data.zero_()
    found = relevances(s, [("conv1", "out"), ("conv2", "out"), ("head", "in")])
    parts = [found[n, "out"][0] for n in ("conv1", "conv2")]
    assert sum(parts) == pytest.approx(found["head", "in"][0], rel=1e-4)
    assert abs(parts[0]) > 1e-3 and parts[0] != pytest.approx(found["head", "in"][0])


MANY = (*laws.LABELS, "keep0.75", "keep0.5")
