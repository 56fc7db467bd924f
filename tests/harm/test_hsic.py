"""Laws of the HSIC signal: it is the estimate on channels, and tells what the output hears of.

Faults these laws must catch: features along the tokens; samples of one batch paired with outputs
of another; a tensor that the output never hears of with a share of the bits.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from allot.harm.hsic import dependences, hsic
from allot.harm.relative import places
from allot.num.dependence import gaussian, linear, standardized
from allot.num.dependence import hsic as dependence
from tests import attention, toys
from tests.harm import laws, scenes


@pytest.mark.parametrize("law", laws.ADDITIVE)
def test_it_is_a_signal(law: object) -> None:
    law(hsic)  # type: ignore[operator]


def test_progress() -> None:
    laws.progresses(lambda s, f: hsic(s, batch=6, progress=f))


@pytest.mark.parametrize("batch", (3, 64))
def test_it_is_the_estimate_on_means_over_pixels(batch: int) -> None:
    s = scenes.scene(toys.chain)
    model, x = s.bank.skeleton, s.data.inputs
    found = dependences(s, [("conv1", "out"), ("head", "out")], batch=batch)
    with torch.no_grad():
        said, seen = model(x), model.conv1(x)  # type: ignore[operator]
    y = linear(standardized(said))
    assert found["conv1", "out"] == pytest.approx(
        dependence(gaussian(seen.mean((2, 3))), y), rel=1e-6
    )
    assert found["head", "out"] == pytest.approx(dependence(gaussian(said), y), rel=1e-6)


def test_of_tokens_the_features_are_the_channels() -> None:
    s = scenes.scene(attention.made())
    assert ("layers.0.norm1", "out") in places(s)
    (found,) = dependences(s, [("layers.0.norm1", "out")]).values()
    seen: list[Tensor] = []
    model = s.bank.skeleton
    handle = model.get_submodule("layers.0.norm1").register_forward_hook(
        lambda module, args, out: seen.append(out.detach())
    )
    with torch.no_grad():
        said = model(s.data.inputs)
    handle.remove()
    want = dependence(gaussian(seen[0].mean(1)), linear(standardized(said)))
    assert found == pytest.approx(want, rel=1e-6)


class Deaf(nn.Module):
    """Two branches, of which the output hears one."""

    def __init__(self) -> None:
        super().__init__()
        self.heard, self.unheard = nn.Conv2d(3, 6, 3), nn.Conv2d(3, 6, 3)
        self.head = nn.Linear(6, 5)

    def forward(self, x: Tensor) -> Tensor:
        # one reads the left half of an image, one the right
        left, right = x[..., :4], x[..., 4:]
        mixed = self.heard(left) + 1e-6 * self.unheard(right)
        return self.head(torch.relu(mixed).mean((2, 3)))


def test_what_the_output_never_hears_of_gets_a_small_share() -> None:
    s = scenes.scene(lambda: toys.seeded(Deaf()), search=200)
    found = dependences(s, [("heard", "out"), ("unheard", "out")])
    assert found["heard", "out"] > 5 * found["unheard", "out"] > 0


def test_shares_are_those_of_all_layers_together() -> None:
    """Options of one relative error everywhere: their harms are as the scores are."""
    s = scenes.scene(toys.chain, space=scenes.nudges(1e-3))
    scores = dependences(s, [(x.module, "out") for x in s.bank.graph.layers])
    whole = sum(scores.values())
    for choice, term in zip(s.space.choices, hsic(s).terms, strict=True):
        name = s.bank.graph.site(choice.site).touches[0].module
        w = s.bank.module(name).get_parameter("weight")
        for o, option in enumerate(choice.options[1:], start=1):
            new = s.bank.standins({choice.site: option})[name].get_parameter("weight")
            relative = float((new - w).square().sum() / w.square().sum())
            want = scores[name, "out"] / whole * relative
            assert np.isclose(term.values[o], want, rtol=1e-4)


def test_a_forward_pass_is_charged() -> None:
    s = scenes.scene(toys.chain)
    dependences(s, [("head", "out")], samples=5)
    assert s.evaluator.spent == pytest.approx(5 / len(s.data))
