"""Laws of equalization: ranges meet, how a network was scaled does not matter, 4 bits gain."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from allot.errors import InputError, ModelError
from allot.rewrites.bn_folding import FoldNorms
from allot.rewrites.equalization import CrossLayerEqualization
from allot.rewrites.flow import flows
from allot.rewrites.layers import copied, output_sizes, scale_outputs
from allot.rewrites.readers import read_sizes, scale_readers
from allot.rewrites.rewrite import rewritten
from allot.task import Task
from tests import small, toys
from tests.rewrites import proofs

CLE = CrossLayerEqualization(iterations=60)


class Depthwise(nn.Module):
    """conv, depthwise, pointwise, with ReLU; the head reads two tensors joined, one pooled."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.depth = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.point = nn.Conv2d(8, 6, 1)
        self.side = nn.Conv2d(6, 4, 1)
        self.head = nn.Linear(6 + 16, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.point(torch.relu(self.depth(torch.relu(self.stem(x))))))
        y = nn.functional.leaky_relu(self.side(x), 0.1)
        y = nn.functional.max_pool2d(y, 4).flatten(1)
        return self.head(torch.cat([x.mean((2, 3)), y], 1))


def depthwise() -> nn.Module:
    return toys.seeded(Depthwise())


def wide() -> list[nn.Module]:
    return [nn.Linear(6, 6), nn.ReLU()]


def uneven(task: Task, decades: float = 3.0) -> Task:
    """The same function with channels of very different size."""
    new = replace(task, model=copied(task))
    names = proofs.names(proofs.layers(task.model))
    for k, flow in enumerate(f for f in flows(task, names).values() if f.closed):
        factors = proofs.spread(flow.channels, decades, seed=k).double()
        scale_outputs(new.model.get_submodule(flow.source), factors)  # type: ignore[arg-type]
        scale_readers(new.model, flow, 1 / factors)
    return new


@pytest.mark.parametrize("make", (toys.chain, depthwise))
def test_uneven_channels_gain_at_four_bits(make: object) -> None:
    t = small.task(make)  # type: ignore[arg-type]
    t = rewritten(t, [FoldNorms()]) if make is toys.chain else t
    wanted = proofs.output(t)
    bad = uneven(t)
    assert torch.allclose(proofs.output(bad), wanted, rtol=1e-3, atol=1e-4)
    good = proofs.check_rewrite(bad, CLE)
    assert proofs.weight_error(good, wanted) < proofs.weight_error(bad, wanted) / 4


@pytest.mark.parametrize("make", (toys.chain, depthwise, toys.constant, toys.residual))
def test_what_makes_a_channel_is_as_large_as_what_reads_it(make: object) -> None:
    t = small.task(make)  # type: ignore[arg-type]
    if make in (toys.chain, toys.residual):
        t = rewritten(t, [FoldNorms()])
    new = proofs.check_rewrite(t, CLE)
    names = proofs.names(proofs.layers(t.model))
    pairs = [f for f in flows(new, names).values() if f.closed]
    assert pairs
    for flow in pairs:
        source = new.model.get_submodule(flow.source)
        made = output_sizes(source).double()  # type: ignore[arg-type]
        read = read_sizes(new.model, flow)
        assert torch.allclose(made, read, rtol=2e-2)


def test_the_scale_of_the_channels_before_does_not_matter() -> None:
    t = small.task(depthwise)
    a = CLE.apply(t).state_dict()
    b = CLE.apply(uneven(t)).state_dict()
    for k in a:
        assert torch.allclose(a[k], b[k], rtol=2e-2, atol=1e-4), k


def test_layers_on_a_shortcut_are_left_alone() -> None:
    t = rewritten(small.task(toys.residual), [FoldNorms()])
    new = CLE.apply(t)
    for name in ("conv1.weight", "layer1.0.conv2.bias", "layer2.0.shortcut.0.weight"):
        old = t.model.state_dict()[name]
        scaled = new.state_dict()[name]
        kept = old / old.abs().amax((1, 2, 3), keepdim=True) if old.dim() == 4 else old
        same = scaled / scaled.abs().amax((1, 2, 3), keepdim=True) if old.dim() == 4 else scaled
        assert torch.allclose(kept, same, atol=1e-6)
    assert not torch.equal(new.layer1[0].conv1.weight, t.model.layer1[0].conv1.weight)


def test_a_channel_that_nobody_makes_or_reads_stays_finite() -> None:
    model = depthwise()
    with torch.no_grad():
        model.stem.weight[2] = 0  # type: ignore[index, union-attr]
        model.point.weight[:, 3] = 0  # type: ignore[index, union-attr]
    new = proofs.check_rewrite(proofs.of(model, toys.images(30)), CLE)
    assert all(bool(v.isfinite().all()) for v in new.model.state_dict().values())


def test_a_weight_that_two_layers_share_is_scaled_in_one() -> None:
    model = toys.seeded(nn.Sequential(*wide(), *wide(), nn.Linear(6, 5)))
    model[2].weight = model[0].weight  # type: ignore[assignment]
    x = torch.randn(60, 6, generator=torch.Generator().manual_seed(1))
    new = proofs.check_rewrite(proofs.of(model, x), CLE)
    assert not torch.equal(new.model[0].weight, new.model[2].weight)  # type: ignore[index, union-attr, arg-type]


def test_bad_input_is_told() -> None:
    with pytest.raises(ModelError, match=r"nothing can be equalized.*fold batch norms first"):
        CLE.apply(small.task(lambda: nn.Sequential(nn.Flatten(), nn.Linear(192, 5))))
    with pytest.raises(ModelError, match="nothing can be equalized"):
        CLE.apply(small.task(toys.chain))
    with pytest.raises(InputError, match="at least 1"):
        CrossLayerEqualization(iterations=0)
