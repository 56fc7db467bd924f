"""Laws of ModelOpt's scores: they are the sums that their definitions say, for what is known.

Faults these laws must catch: a gradient of the wrong labels; a square taken after the sum; a
network's own answer used where there are labels; a layer whose norm is scored instead; scores
that depend on how the data are cut.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from allot.errors import InputError
from allot.harm.modelopt import kl, squared_gradient
from allot.harm.single import single
from allot.scene import Scene
from allot.space import Space
from allot.task import Data
from tests import toys
from tests.harm import laws, scenes


def head(labels: bool = True) -> Scene:
    """The chain with 4 and 2 bits for its last layer alone."""

    def cut(space: Space) -> Space:
        chosen = laws.cut(space, ("weight",), ("float", "W4", "W2"))
        return replace(chosen, choices=chosen.choices[-1:])

    return scenes.scene(space=lambda g, sp: cut(sp), labels=labels)


def logits(s: Scene, weights: Tensor | None = None) -> Tensor:
    """Outputs of the chain with another last weight [5, 24]."""
    model = s.task.model
    assert isinstance(s.data.inputs, Tensor)
    with torch.no_grad():
        x = model.relu1(model.bn1(model.conv1(s.data.inputs)))  # type: ignore
        x = model.relu2(model.bn2(model.conv2(x)))  # type: ignore
        x = torch.flatten(model.pool(x), 1)  # type: ignore
        w = model.head.weight if weights is None else weights
        return torch.nn.functional.linear(x, w, model.head.bias)  # type: ignore


@pytest.mark.parametrize("labels", (True, False))
def test_the_last_layer_scores_what_its_closed_form_says(labels: bool) -> None:
    s = head(labels)
    table = squared_gradient(s, batch=7)
    choice = s.space.choices[0]
    z = logits(s)
    right = z.argmax(1) if s.data.labels is None else s.data.labels
    gradient = z.softmax(1) - torch.nn.functional.one_hot(right, 5)
    for o, option in enumerate(choice.options[1:], start=1):
        standin = s.bank.standins({choice.site: option})["head"]
        error = logits(s, standin.inner.weight) - z  # type: ignore
        want = 0.5 * float((gradient * error).double().square().sum(1).mean())
        assert table.single(0, 3)[o] == pytest.approx(want, rel=1e-4)


def test_labels_matter_where_there_are_any() -> None:
    s = head()
    own = replace(s, data=Data(inputs=s.data.inputs))
    assert s.data.labels is not None
    turned = replace(s, data=replace(s.data, labels=(s.data.labels + 1) % 5))
    found = [squared_gradient(x).single(0, 3)[2] for x in (s, own, turned)]
    assert len(set(found)) == 3


def test_it_is_a_signal() -> None:
    for law in (
        laws.says_one_term_a_choice,
        laws.leaves_no_trace,
        laws.repeats_itself,
        laws.sums_over_tied_weights,
        laws.says_the_first_option_too,
    ):
        law(squared_gradient)
    laws.progresses(lambda s, p: squared_gradient(s, progress=p))


def test_it_does_not_depend_on_the_batch() -> None:
    kinds = ("weight", "activation", "channels")
    s = scenes.scene(
        toys.residual, space=lambda g, sp: laws.cut(sp, kinds, ("float", "W4", "A4", "keep1"))
    )
    one, other = squared_gradient(s, batch=3), squared_gradient(s, batch=20)
    for a, b in zip(one.terms, other.terms, strict=True):
        assert a.values == pytest.approx(b.values, rel=1e-3)


def test_it_costs_one_forward_one_backward_and_replays() -> None:
    s = head()
    squared_gradient(s)
    layers = s.space.graph.layers
    share = next(x.macs for x in layers if x.module == "head") / sum(x.macs for x in layers)
    assert s.evaluator.spent == pytest.approx(3 + 2 * share)


def test_outputs_that_are_no_logits_are_refused() -> None:
    s = scenes.scene(
        forward=lambda model, x: model(x)[:, :, None, None].expand(-1, -1, 2, 2),
        divergence=lambda a, b: (a - b).double().square().sum((1, 2, 3)),
        score=lambda a, b: torch.zeros(len(a)),
    )
    with pytest.raises(InputError, match=r"needs logits \[n, classes\]"):
        squared_gradient(s)


def test_the_kl_mode_is_one_at_a_time_and_signed() -> None:
    s = scenes.pinned(scenes.scene(), conv1_weight="W2")
    table, plain = kl(s), single(s)
    assert table.constant == plain.constant > 0
    for a, b in zip(table.terms, plain.terms, strict=True):
        assert np.array_equal(np.maximum(a.values, 0), b.values)
    assert min(float(t.values.min()) for t in table.terms) < 0
