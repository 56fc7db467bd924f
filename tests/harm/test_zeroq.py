"""Laws of zero-shot harm: the divergence on made inputs, and not a pixel of the real ones.

Faults these laws must catch: real data read; a first option taken for the original; one site of a
tied choice left as it was; a repaired network.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from allot.errors import InputError
from allot.harm.weights import sites
from allot.harm.zeroq import zeroq
from allot.scene import Scene
from allot.synthesis import synthesize
from allot.table import Table
from allot.task import Data
from tests import toys
from tests.harm import laws, scenes


def signal(scene: Scene) -> Table:
    return zeroq(scene, samples=8, steps=4)


@pytest.mark.parametrize("law", (*laws.EVERY, laws.says_the_first_option_too))
def test_it_is_a_signal(law: object) -> None:
    law(signal)  # type: ignore[operator]


def test_progress() -> None:
    laws.progresses(lambda s, f: zeroq(s, samples=8, steps=4, progress=f))


def test_it_is_the_divergence_on_the_made_inputs() -> None:
    s = laws.scene(shape=laws.tied)
    table = signal(s)
    assert isinstance(s.data.inputs, torch.Tensor)
    x = synthesize(s.bank.skeleton, s.bank.graph, s.data.inputs, samples=8, steps=4, seed=s.seed)
    original = s.task.forward(s.bank.skeleton, x)
    for choice, term in zip(s.space.choices, table.terms, strict=True):
        for option, value in zip(choice.options, term.values, strict=True):
            standins = s.bank.standins(dict.fromkeys(sites(choice), option))
            with s.bank.trial(standins) as model:
                want = s.task.divergence(original, s.task.forward(model, x)).mean()
            assert value == pytest.approx(float(want), rel=1e-6)


def test_no_real_data_is_read() -> None:
    s = laws.scene()
    other = replace(s, data=Data(inputs=torch.full_like(s.data.inputs, torch.nan)))  # type: ignore
    assert laws.same(signal(s), signal(other))


def test_its_work_is_charged_in_passes_over_the_search_data() -> None:
    s = laws.scene("weight")
    signal(s)
    options = sum(n - 1 for n in s.space.counts)
    assert s.evaluator.spent == pytest.approx((3 * 4 + 1 + options) * 8 / len(s.data))


def test_a_network_without_batch_norm_is_refused() -> None:
    with pytest.raises(InputError, match="no batch norm"):
        signal(scenes.scene(toys.constant))
