"""Laws of rotations, of the stream and online.

Faults these must catch: a writer or a reader forgotten, a transpose too many, a bias not rotated, a
mean left in, a norm's weight left in, two streams of one rotation where they need two.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from allot.errors import ModelError
from allot.rewrites.inputs import linears
from allot.rewrites.norms import affine, norm_kind
from allot.rewrites.rewrite import change
from allot.rewrites.rotate_input import Rotated, RotateInput
from allot.rewrites.rotation import Rotate
from allot.task import Task
from tests import attention, small, toys
from tests.rewrites import proofs
from tests.rewrites import transformers_small as made
from tests.rewrites.proofs import check_rewrite

MAKES = (made.gated, made.vision)


@pytest.mark.parametrize("make", MAKES)
def test_the_network_computes_the_same_in_another_basis(make) -> None:
    task = make()
    new = check_rewrite(task, Rotate(seed=4))
    norms = [m for m in new.model.modules() if norm_kind(m)]
    assert norms and {norm_kind(m) for m in norms} == {"rms"}
    assert all(bool((affine(m)[0] == 1).all() and (affine(m)[1] == 0).all()) for m in norms)


def test_the_mean_of_tokens_may_lie_between_the_last_norm_and_the_head() -> None:
    check_rewrite(made.vision(pool="mean"), Rotate())


def streams(task: Task, name: str) -> torch.Tensor:
    """What a module reads on calibration inputs."""
    found = []
    module = task.model.get_submodule(name)
    handle = module.register_forward_pre_hook(lambda m, a: found.append(a[0]))
    with torch.no_grad():
        task.forward(task.model, task.calibrate.inputs)
    handle.remove()
    return found[0]


def test_the_stream_keeps_its_length_and_is_truly_turned() -> None:
    task = made.gated()
    new = replace(task, model=Rotate(seed=1).apply(task))
    a, b = (streams(t, "layers.1.norm2") for t in (task, new))
    assert torch.allclose(a.norm(dim=-1), b.norm(dim=-1), rtol=1e-4)
    assert float((a - b).norm() / a.norm()) > 0.5


def test_another_seed_gives_another_rotation() -> None:
    task = made.gated()
    a, b = (Rotate(seed=s).apply(task).get_submodule("embed").weight for s in (0, 1))
    assert not torch.allclose(a, b)


def test_writers_of_a_stream_with_layer_norms_write_no_mean() -> None:
    task = made.vision()
    q = streams(replace(task, model=Rotate().apply(task)), "layers.0.norm2")
    before = streams(task, "layers.0.norm2")
    centred = (before - before.mean(-1, keepdim=True)).norm(dim=-1)
    assert torch.allclose(q.norm(dim=-1), centred, rtol=1e-4)


def test_a_weight_of_zero_in_a_norm_silences_its_channel() -> None:
    task = made.vision()
    with torch.no_grad():
        task.model.get_submodule("layers.0.norm1").weight[3] = 0
        task.model.get_submodule("layers.0.norm1").bias[3] = 0.7
    wanted = made.outputs(task)
    got = made.outputs(replace(task, model=Rotate().apply(task)))
    assert change(wanted, got) < 1e-5


@pytest.mark.parametrize(
    ("make", "places"), [(made.gated, made.GATED_NORMS), (made.vision, made.VISION_NORMS)]
)
def test_planted_outliers_of_norms_cost_less_afterwards(make, places) -> None:
    task = made.planted(make(), places)
    made.check_helps(task, replace(task, model=Rotate().apply(task)), inputs=4, share=0.5)


def test_norms_after_the_sum_are_refused_with_the_reason() -> None:
    with pytest.raises(ModelError, match="no residual stream can be rotated"):
        Rotate().apply(made.vision(first=False))


def test_a_head_that_reads_the_stream_with_its_mean_is_refused() -> None:
    tokens = torch.randint(0, 5, (12, 4), generator=torch.Generator().manual_seed(0))
    with pytest.raises(ModelError, match="head reads the stream itself"):
        Rotate().apply(proofs.of(attention.language(), tokens))


def test_a_network_without_a_stream_is_refused() -> None:
    with pytest.raises(ModelError, match="no residual stream"):
        Rotate().apply(small.task(toys.chain))


@pytest.mark.parametrize("make", MAKES)
def test_inputs_turned_online_change_nothing(make) -> None:
    task = make()
    new = check_rewrite(task, RotateInput(seed=2))
    turned = [m for m in new.model.modules() if isinstance(m, Rotated)]
    assert len(turned) == len(linears(task, task.model))


def test_planted_outliers_of_products_cost_less_after_an_online_rotation() -> None:
    task = made.planted(made.gated(), made.GATED_PRODUCTS)
    rewrite = RotateInput(layers=("layers.0.down", "layers.1.down"))
    # of activations alone, and not of the fewest bits: three channels of sixteen are planted, with
    # small weights, and a rotation shares their error with weights that are not small
    new = replace(task, model=rewrite.apply(task))
    made.check_helps(task, new, weights=16, inputs=6, share=0.5)


def test_only_named_linears_of_even_width_are_turned() -> None:
    task = made.vision()
    model = RotateInput(layers=("layers.0.down",)).apply(task)
    assert [n for n, m in model.named_modules() if isinstance(m, Rotated)] == ["layers.0.down"]
    odd = proofs.of(toys.seeded(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))), torch.ones(6, 3))
    with pytest.raises(ModelError, match="0 reads 3 channels"):
        RotateInput(layers=("0",)).apply(odd)
    check = RotateInput().apply(odd)
    assert [n for n, m in check.named_modules() if isinstance(m, Rotated)] == ["1"]
    with pytest.raises(ModelError, match="patches"):
        RotateInput(layers=("patches",)).apply(task)
