"""Laws of the low-rank branch.

Faults these must catch: factors rounded after the residual was taken, factors swapped, a bias
counted twice, a residual as large as before.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from allot.errors import InputError, ModelError
from allot.num.lowrank import half
from allot.rewrites.low_rank_branch import Branch, Branched
from allot.rewrites.smoothing import Smooth
from allot.trace import trace
from tests.rewrites import transformers_small as made
from tests.rewrites.proofs import check_rewrite

LAYERS = ("layers.0.up", "layers.0.down", "layers.1.up")


@pytest.mark.parametrize("make", [made.gated, made.vision])
def test_the_network_computes_the_same(make) -> None:
    new = check_rewrite(make(), Branch(rank=2, layers=LAYERS))
    names = [n for n, m in new.model.named_modules() if isinstance(m, Branched)]
    assert set(names) == set(LAYERS)


def test_the_residual_is_the_weight_less_its_largest_directions() -> None:
    task = made.gated()
    model = Branch(rank=3, layers=LAYERS).apply(task)
    for name in LAYERS:
        branch, old = model.get_submodule(name), task.model.get_submodule(name)
        assert isinstance(branch, Branched)
        values = torch.linalg.svdvals(old.weight.double())
        left = torch.linalg.svdvals(branch.residual.weight.double())
        assert abs(float(left[0] / values[3]) - 1) < 2e-2
        assert torch.equal(half(branch.up), branch.up) and torch.equal(
            half(branch.down), branch.down
        )


def test_the_branch_is_billed_and_the_residual_is_a_layer() -> None:
    task = made.gated()
    before = trace(task.model, task.forward, task.example())
    new = Branch(rank=2, layers=("layers.0.down",)).apply(task)
    after = trace(new, task.forward, task.example())
    assert after.loose - before.loose == 4 * 2 * (12 + 16)
    assert "layers.0.down.residual" in {x.module for x in after.layers}


def test_after_smoothing_it_takes_planted_outliers_out_of_weights() -> None:
    task = made.planted(made.gated(), made.GATED_NORMS)
    smooth = replace(task, model=Smooth(strengths=(0.7,)).apply(task))
    norms = tuple(r for readers in made.GATED_NORMS.values() for r in readers)
    new = replace(task, model=Branch(rank=2, layers=norms).apply(smooth))
    made.check_helps(task, new, inputs=4, share=0.3)
    made.check_helps(smooth, new, inputs=4)


def test_a_rank_above_the_matrix_s_is_named_with_the_layer() -> None:
    with pytest.raises(InputError, match=r"layers.0.k is 4 x 12 .* rank 5; give 1 to 4"):
        Branch(rank=5, layers=("layers.0.k",)).apply(made.gated())
    with pytest.raises(InputError, match="rank 0"):
        Branch(rank=0).apply(made.gated())


def test_unless_told_where_it_leaves_narrow_matrices_alone() -> None:
    new = Branch(rank=5).apply(made.gated())
    narrow, wide = new.get_submodule("layers.0.k"), new.get_submodule("layers.0.q")
    assert type(narrow) is nn.Linear and type(wide) is not nn.Linear
    with pytest.raises(ModelError, match="more than rank 99"):
        Branch(rank=99).apply(made.gated())


def test_a_layer_that_is_no_linear_is_refused() -> None:
    with pytest.raises(ModelError, match="patches"):
        Branch(rank=1, layers=("patches",)).apply(made.vision())
