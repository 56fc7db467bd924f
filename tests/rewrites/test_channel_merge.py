"""Laws of channel merging: its error is what it says, equal channels merge for nothing."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from allot.errors import InputError
from allot.rewrites.channel_merge import distances, merged
from allot.rewrites.channel_split import SplitInputs
from tests import toys
from tests.rewrites import proofs


def linear(width: int = 8) -> nn.Linear:
    model = toys.seeded(nn.Sequential(nn.Linear(width, 6)))
    assert isinstance(model[0], nn.Linear)
    return model[0].double()


def inputs(width: int = 8, n: int = 30) -> Tensor:
    return torch.randn(n, width, generator=torch.Generator().manual_seed(4)).double()


def test_one_pair_costs_the_least_distance_by_brute_force() -> None:
    layer, x = linear(), inputs()
    new = merged(layer, x, count=1)
    w, costs = layer.weight, {}
    for i in range(0, 8, 2):
        for j in range(1, 8, 2):
            change = torch.outer(torch.ones(len(x)).double(), torch.zeros(6).double())
            change = change + (x[:, i] - x[:, j])[:, None] * (w[:, i] - w[:, j])[None] / 2
            costs[i, j] = float(change.square().sum())
    best = min(costs, key=lambda k: costs[k])
    assert new.pairs == (best,)
    assert new.error == pytest.approx(costs[best])
    assert float(distances(layer, x)[best]) == pytest.approx(costs[best])


@pytest.mark.parametrize("same", ("inputs", "columns"))
def test_equal_channels_merge_without_error(same: str) -> None:
    layer, x = linear(), inputs()
    with torch.no_grad():
        if same == "inputs":
            x[:, 5] = x[:, 2]
        else:
            layer.weight[:, 5] = layer.weight[:, 2]
    new = merged(layer, x, count=1)
    assert new.pairs == ((2, 5),) and new.error < 1e-20


@pytest.mark.parametrize("count", (0, 1, 3, 4))
def test_the_error_is_measured_and_the_width_falls(count: int) -> None:
    layer, x = linear(), inputs()
    before = {k: v.clone() for k, v in layer.state_dict().items()}
    new = merged(layer, x, count=count)
    assert float((new.module(x) - layer(x)).square().sum()) == pytest.approx(new.error, abs=1e-25)
    assert new.module.layer.weight.shape == (6, 8 - count)  # type: ignore[union-attr]
    assert len({i for p in new.pairs for i in p}) == 2 * count
    assert all(torch.equal(before[k], v) for k, v in layer.state_dict().items())
    errors = [merged(layer, x, count=n).error for n in range(count + 1)]
    assert errors[0] < 1e-25 and errors == sorted(errors)


def test_split_and_merged_has_the_old_width_and_smaller_inputs() -> None:
    model = toys.seeded(nn.Sequential(nn.Linear(12, 16), nn.ReLU(), nn.Linear(16, 5)))
    with torch.no_grad():
        model[0].weight[3] *= 12  # type: ignore[operator, index]
    t = proofs.of(model, inputs(12, 60).float())
    split = SplitInputs(share=0.5, layers=("2",)).apply(t)
    with torch.no_grad():
        x = model[1](model[0](t.calibrate.inputs))
    done = merged(split[2], x, count=8)  # type: ignore[index]
    inner = done.module.layer  # type: ignore[union-attr]
    assert inner.weight.shape == model[2].weight.shape  # type: ignore[union-attr]
    assert float(done.module.regroup(x).abs().max()) < float(x.abs().max()) / 2  # type: ignore
    assert 0 < done.error < float((model[2](x)).square().sum()) / 10
    seen = t.model[2](x)
    assert float((done.module(x) - seen).square().sum()) == pytest.approx(done.error, rel=1e-3)


def test_a_convolution_merges_too() -> None:
    conv = nn.Conv2d(6, 4, 3, padding=1, stride=2)
    x = toys.images(5, channels=6)
    with torch.no_grad():
        x[:, 3] = x[:, 0]
    new = merged(conv, x, count=1)
    assert new.pairs == ((0, 3),) and new.error < 1e-8
    assert new.module(x).shape == conv(x).shape


def test_bad_input_is_told() -> None:
    with pytest.raises(InputError, match="at most half of 8 channels"):
        merged(linear(), inputs(), count=5)
    with pytest.raises(InputError, match="ReLU has no channels"):
        merged(nn.ReLU(), inputs(), count=1)
    with pytest.raises(InputError, match="merged already"):
        merged(merged(linear(), inputs(), count=1).module, inputs(), count=1)
