"""Laws of the seam: rewrites in order, each held to the original's output, nothing touched."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from allot.errors import ModelError, PlanError
from allot.part import load
from allot.rewrites.bn_folding import FoldNorms
from allot.rewrites.equalization import CrossLayerEqualization
from allot.rewrites.layers import copied, put
from allot.rewrites.rewrite import Rewrite, change, rewritten
from allot.task import Task
from tests import small, toys


@dataclass(frozen=True, kw_only=True)
class Stretched(Rewrite):
    """Changes the bias of the head by a share of the largest output."""

    by: float

    def apply(self, task: Task) -> nn.Module:
        model = copied(task)
        most = float(task.forward(model, task.example(8)).abs().max())
        with torch.no_grad():
            model.get_parameter("head.bias").add_(self.by * most)
        return model


def test_no_rewrite_changes_nothing() -> None:
    t = small.task()
    assert rewritten(t, []).model is t.model


def test_rewrites_are_applied_in_order() -> None:
    t = small.task()
    both = rewritten(t, [FoldNorms(), CrossLayerEqualization(iterations=3)])
    by_hand = CrossLayerEqualization(iterations=3).apply(rewritten(t, [FoldNorms()]))
    assert small.same_state(both.model.state_dict(), by_hand.state_dict())
    with pytest.raises(ModelError, match="fold batch norms first"):
        rewritten(t, [CrossLayerEqualization(), FoldNorms()])


@pytest.mark.parametrize("by", (2e-4, 1.0, float("nan")))
def test_a_changed_output_is_refused_by_name(by: float) -> None:
    with pytest.raises(ModelError, match="Stretched changes the network's output"):
        rewritten(small.task(), [FoldNorms(), Stretched(by=by)])


def test_small_changes_pass_once_and_do_not_add_up() -> None:
    t = small.task()
    assert rewritten(t, [Stretched(by=0.6e-4)]).model is not t.model
    with pytest.raises(ModelError, match="Stretched"):
        rewritten(t, [Stretched(by=0.6e-4), Stretched(by=0.6e-4)])


def test_float64_is_held_to_more() -> None:
    t = small.task()
    t.model.double()
    wide = rewritten(Task(**{**vars(t), "forward": lambda m, x: m(x.double())}), [FoldNorms()])
    assert next(wide.model.parameters()).dtype == torch.float64
    with pytest.raises(ModelError, match="Stretched"):
        rewritten(wide, [Stretched(by=1e-6)])


def test_a_network_in_training_mode_stays_in_it_and_is_rewritten_as_in_eval() -> None:
    t = small.task()
    wanted = t.forward(t.model, t.example())
    t.model.train()
    t.model.get_submodule("bn1").eval()
    new = rewritten(t, [FoldNorms()])
    modes = {n: m.training for n, m in t.model.named_modules()}
    assert not modes.pop("bn1") and all(modes.values())
    assert not any(m.training for m in new.model.modules())
    assert change(wanted, new.forward(new.model, t.example())) < 1e-5


def test_a_module_under_two_names_is_replaced_under_both() -> None:
    shared = nn.Linear(4, 4)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    new = nn.Linear(4, 4)
    put(model, "0", new)
    assert model[0] is new and model[2] is new


def test_change_is_relative_and_infinite_for_another_shape() -> None:
    x = torch.tensor([[2.0, -4.0]])
    assert change(x, x + 1) == 0.25 and change(x, x[0]) == float("inf")
    assert change(torch.zeros(2), torch.ones(2)) == 1


def test_a_file_may_name_rewrites_of_allot_only() -> None:
    assert load(FoldNorms().dump()) == FoldNorms()
    with pytest.raises(PlanError, match="not to be trusted"):
        load(Stretched(by=1.0).dump())


def test_the_toys_of_this_file_are_what_they_say() -> None:
    t = small.task(toys.chain)
    assert change(*(t.forward(m, t.example(8)) for m in (t.model, Stretched(by=0.5).apply(t)))) == (
        pytest.approx(0.5)
    )
