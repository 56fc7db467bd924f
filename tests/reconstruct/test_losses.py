"""Laws of losses: nothing is lost where nothing differs, and gradients are those of the divergence.

Faults these laws must catch: a weight forgotten or not of mean 1; gradients summed over samples
before they are squared; an inner output left out.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from allot.errors import InputError
from allot.options.precision import Weight
from allot.reconstruct.losses import (
    FinalKL,
    FisherWeighted,
    Given,
    Goal,
    InnerOutput,
    Loss,
    OutputMSE,
)
from allot.reconstruct.setting import Reconstruction
from allot.reconstruct.work import source, until, work
from allot.task import kl_to_original
from tests import small

LOSSES: tuple[Loss, ...] = (OutputMSE(), FisherWeighted(), InnerOutput(), FinalKL())


def drawn(seed: int) -> Tensor:
    return torch.randn(6, 5, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("loss", LOSSES)
def test_a_loss_is_0_where_all_agrees_and_above_where_not(loss: Loss) -> None:
    weight = drawn(1).square()
    goal = Goal(output=drawn(2), inner=(drawn(3), drawn(4)), weight=weight)
    same = Given(output=goal.output, inner=goal.inner)
    assert float(loss.value(same, goal, kl_to_original)) == pytest.approx(0, abs=1e-6)
    other = Given(output=drawn(5), inner=goal.inner)
    assert float(loss.value(other, goal, kl_to_original)) > 0.1


def test_only_inner_outputs_matter_to_the_loss_that_looks_at_them() -> None:
    goal = Goal(output=drawn(2), inner=(drawn(3), drawn(4)), weight=drawn(1).square())
    inside = Given(output=goal.output, inner=(drawn(3), drawn(6)))
    values = {type(x): float(x.value(inside, goal, kl_to_original)) for x in LOSSES}
    assert [k for k, v in values.items() if v > 1e-6] == [InnerOutput]
    half = float(InnerOutput(share=0.25).value(inside, goal, kl_to_original))
    assert 2 * half == pytest.approx(values[InnerOutput])
    with pytest.raises(InputError, match="share"):
        InnerOutput(share=-1)


def test_with_equal_weights_fisher_is_the_mean_squared_error() -> None:
    given, goal = Given(output=drawn(1)), Goal(output=drawn(2), weight=torch.ones(6, 5))
    fisher = FisherWeighted().value(given, goal, kl_to_original)
    assert torch.equal(OutputMSE().value(given, goal, kl_to_original), fisher)


def test_weights_are_squared_gradients_of_every_samples_divergence() -> None:
    k = small.kit()
    options = {f"{x.module}.weight": Weight(bits=3) for x in k.graph.layers}
    setting = Reconstruction(loss=FisherWeighted(), samples=24, batch=10)
    given = source(k.bank, k.task, setting, seed=0)
    standins = k.bank.standins(options)  # type: ignore[arg-type]
    doing = work(given, ("head",), standins)
    want = []
    for batch, final in zip(given.batches, given.finals, strict=True):
        with k.bank.trial(standins) as model, torch.no_grad():
            y = k.task.forward(model, batch)
        # of KL(p || q) with respect to the logits of q: q - p
        want.append((y.softmax(1) - final.softmax(1)).square())
    mean = torch.cat(want).mean()
    for goal, w in zip(doing.goals, want, strict=True):
        assert goal.weight is not None
        assert torch.allclose(w / mean, goal.weight, rtol=1e-3, atol=1e-4)
    everything = torch.cat([g.weight for g in doing.goals if g.weight is not None])
    assert float(everything.mean()) == pytest.approx(1, abs=1e-4)


def test_up_to_a_unit_is_what_has_started_when_it_ends() -> None:
    k = small.kit()
    options = {f"{x.module}.weight": Weight(bits=3) for x in k.graph.layers}
    standins = k.bank.standins(options)  # type: ignore[arg-type]
    assert list(until(k.graph, ("conv2", "bn2"), standins)) == ["conv1", "conv2"]
    assert list(until(k.graph, ("head",), standins)) == ["conv1", "conv2", "head"]
