"""Laws of gamma migration.

Faults these must catch: a reader forgotten, gamma divided twice, the bias not divided, a norm after
the sum taken as one before it, a zero weight that becomes a division by zero.
"""

from __future__ import annotations

import pytest
import torch

from allot.errors import ModelError
from allot.rewrites.channels import Divided
from allot.rewrites.gamma_migration import MigrateGamma
from allot.rewrites.norms import affine, norm_kind
from allot.rewrites.rewrite import change
from allot.task import Task
from tests import small, toys
from tests.rewrites import transformers_small as made
from tests.rewrites.proofs import check_rewrite


def gains(task: Task) -> dict[str, torch.Tensor]:
    return {n: affine(m)[0] for n, m in task.model.named_modules() if norm_kind(m)}


@pytest.mark.parametrize("make", [made.gated, made.vision])
def test_norms_before_linears_lose_their_weight_and_the_network_computes_the_same(make) -> None:
    new = check_rewrite(make(), MigrateGamma())
    assert gains(new) and all(bool((g == 1).all()) for g in gains(new).values())


def test_norms_after_the_sum_stay_and_their_linears_divide() -> None:
    task = made.vision(first=False)
    new = check_rewrite(task, MigrateGamma(), tolerance=5e-5)
    divided = {n for n, m in new.model.named_modules() if isinstance(m, Divided)}
    assert {"layers.0.up", "layers.1.attention.query"} <= divided
    assert "layers.0.attention.query" not in divided
    assert torch.equal(gains(task)["layers.0.norm1"], gains(new)["layers.0.norm1"])


def test_a_weight_of_zero_stays_in_the_norm() -> None:
    task = made.vision()
    with torch.no_grad():
        task.model.get_submodule("layers.0.norm1").weight[2] = 0
    new = MigrateGamma().apply(task)
    gain = affine(new.get_submodule("layers.0.norm1"))[0]
    assert gain[2] == 0 and bool((gain[[0, 1, 3]] == 1).all())
    wanted, x = made.outputs(task)[:12], task.calibrate.inputs
    with torch.no_grad():
        assert change(wanted, task.forward(new, x)) < 1e-5


@pytest.mark.parametrize(
    ("make", "places"),
    [(made.gated, made.GATED_NORMS), (made.vision, made.VISION_NORMS)],
)
def test_outliers_that_the_weight_of_norms_makes_are_gone(make, places) -> None:
    task = made.planted(make(), places)
    new = check_rewrite(task, MigrateGamma())
    made.check_helps(task, new, inputs=4, share=0.5)


def test_a_network_without_such_norms_is_refused_with_the_reason() -> None:
    with pytest.raises(ModelError, match="norm that linears read"):
        MigrateGamma().apply(small.task(toys.chain))
