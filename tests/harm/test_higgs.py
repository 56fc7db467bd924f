"""Laws of linearity: where the loss is a square, the slope is exact and so is every harm.

Faults these laws must catch: noise relative to the wrong norm; a line that misses 0; noise left in
a weight; one draw for all levels; a relative error that is not squared.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from allot.harm.higgs import higgs, slopes
from allot.scene import Scene
from allot.task import Data
from tests import toys
from tests.harm import laws, scenes


@pytest.mark.parametrize("law", laws.ADDITIVE)
def test_it_is_a_signal(law: object) -> None:
    law(higgs)  # type: ignore[operator]


def test_progress() -> None:
    laws.progresses(lambda s, f: higgs(s, progress=f))


def quadratic() -> Scene:
    """A linear network, white inputs, and a loss that is the squared change of the output."""
    s = scenes.scene(
        lambda: toys.seeded(nn.Sequential(nn.Flatten(), nn.Linear(192, 5))),
        divergence=lambda a, b: (a.double() - b.double()).square().sum(1),
        space=lambda _, space: laws.cut(space, ("weight",)),
    )
    return replace(s, data=Data(inputs=torch.eye(192).view(192, 3, 8, 8)))


def test_a_square_is_recovered() -> None:
    s = quadratic()
    norm = float(s.bank.module("1").get_parameter("weight").double().square().sum())
    # every input is one unit vector, so the mean loss is the squared change over 192
    for levels in ((0.1,), (0.01, 0.5), (0.05, 0.1, 0.2)):
        assert slopes(s, ["1"], levels=levels)["1"] == pytest.approx(norm / 192, rel=1e-4)


def test_then_the_harm_is_the_loss_itself() -> None:
    s = quadratic()
    (term,) = higgs(s).terms
    x = s.data.inputs
    original = s.task.forward(s.bank.skeleton, x)
    for option, value in zip(s.space.choices[0].options[1:], term.values[1:], strict=True):
        with s.bank.trial(s.bank.standins({"1.weight": option})) as model:
            want = float(s.task.divergence(original, s.task.forward(model, x)).mean())
        assert value == pytest.approx(want, rel=1e-3)


def test_a_pass_per_module_and_level_is_charged() -> None:
    s = laws.scene("weight")
    slopes(s, ["conv1", "head"], levels=(0.1, 0.2, 0.3), samples=5)
    assert s.evaluator.spent == pytest.approx((1 + 2 * 3) * 5 / len(s.data))


def test_a_seed_changes_the_noise_and_little_else() -> None:
    one, two = (slopes(laws.scene("weight", seed=i), ["conv1", "head"]) for i in (0, 1))
    assert one != two
    assert np.allclose(list(one.values()), list(two.values()), rtol=0.9)
