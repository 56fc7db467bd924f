"""Laws of a judge: it is frozen, reads what its modules put out, and leaves no trace.

Faults these must catch: the user's own network changed or kept by reference, features taken after
an activation function in place, hooks left on, batches that change what is read.
"""

from __future__ import annotations

import pytest
import torch
from judges import Eye, eye, images

from allot.errors import DataError, InputError
from allot.judging.judge import BATCH, judge, read, readings
from tests import toys


def test_features_are_those_before_an_activation_function_in_place() -> None:
    j, x = eye(), images(9)
    network = j.network
    inner = network.pool(network.relu(network.conv(x))).flatten(1)
    assert torch.allclose(read(j, x).features, network.features(inner).double(), atol=1e-6)
    assert (read(j, x).features < 0).any()
    assert torch.equal(read(j, x).logits, network(x))


def test_reading_leaves_no_hook_and_no_change() -> None:
    j, x = eye(), images(3)
    before = j.digest
    read(j, x)
    list(readings(j, x))
    assert j.digest == before
    assert not any(m._forward_hooks for m in j.network.modules())


def test_the_judge_is_a_copy_in_eval_mode_that_learns_nothing() -> None:
    network = toys.seeded(Eye()).train()
    j = judge(network, features="features")
    with torch.no_grad():
        network.features.weight += 1
    assert j.digest == judge(toys.seeded(Eye()), features="features").digest
    assert network.training and not j.network.training
    assert all(p.requires_grad for p in network.parameters())
    assert not any(p.requires_grad for p in j.network.parameters())


def test_other_weights_have_another_digest() -> None:
    assert eye(0).digest != eye(1).digest


def test_more_samples_than_a_batch_are_read_as_each_alone() -> None:
    j, x = eye(), images(BATCH + 3)
    alone = torch.cat([read(j, x[i : i + 1]).features for i in (0, BATCH - 1, BATCH, BATCH + 2)])
    both = read(j, x).features[[0, BATCH - 1, BATCH, BATCH + 2]]
    assert torch.allclose(alone, both, atol=1e-5)
    assert len(read(j, x).logits) == len(x)


def test_gradients_reach_the_samples() -> None:
    x = images(2).requires_grad_(True)
    (grad,) = torch.autograd.grad(read(eye(), x).features.sum(), x)
    assert grad.abs().sum() > 0


def test_layers_have_channels_of_length_one() -> None:
    (found,) = readings(eye(), images(4))
    assert [tuple(x.shape) for x in found.layers] == [(4, 6, 144), (4, 8, 1)]
    for x in found.layers:
        assert torch.allclose(x.norm(dim=1), torch.ones(()).double(), atol=1e-6)


def test_unknown_modules_and_features_of_the_wrong_shape_are_refused() -> None:
    network = toys.seeded(Eye())
    with pytest.raises(InputError, match=r"'mixed'.*classes, conv, features"):
        judge(network, features="mixed")
    with pytest.raises(InputError, match="'mixed'"):
        judge(network, features="features", layers=("mixed",))
    with pytest.raises(DataError, match="conv"):
        read(judge(network, features="conv"), images(2))
    with pytest.raises(DataError, match="not finite"):
        read(eye(), images(2) / 0)
