"""Laws of batch norm folding: nothing changes but that the norms are gone."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from allot.errors import ModelError
from allot.rewrites.bn_folding import FoldNorms
from allot.trace import trace
from tests import small, toys
from tests.rewrites import proofs


@pytest.mark.parametrize("make", (toys.chain, toys.residual, toys.padded, toys.separable))
def test_every_norm_behind_a_layer_is_folded(make: Callable[[], nn.Module]) -> None:
    t = small.task(make)
    before = trace(t.model, t.forward, t.example())
    new = proofs.check_rewrite(t, FoldNorms())
    after = trace(new.model, new.forward, new.example())
    gone = {x.norm for x in before.layers} - {""}
    assert gone and set(after.norms) == set(before.norms) - gone
    assert [x.module for x in after.layers] == [x.module for x in before.layers]
    assert all(x.bias for x in after.layers)


class Tall(nn.Module):
    """A linear with a norm without gain, and a norm before the first layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.BatchNorm1d(6)
        self.fc = nn.Linear(6, 7, bias=False)
        self.bn = nn.BatchNorm1d(7, affine=False)
        self.head = nn.Linear(7, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.relu(self.bn(self.fc(self.first(x)))))


def test_a_norm_without_gain_is_folded_and_one_without_a_layer_before_it_stays() -> None:
    x = torch.randn(48, 6, generator=torch.Generator().manual_seed(1))
    new = proofs.check_rewrite(proofs.of(toys.seeded(Tall()), x), FoldNorms())
    assert isinstance(new.model.first, nn.BatchNorm1d) and isinstance(new.model.bn, nn.Identity)


class Between(nn.Module):
    """Something lies between layer and norm, or another reads the layer too."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)
        self.bn = nn.BatchNorm2d(6)
        self.head = nn.Linear(6, 5)
        self.kind = kind

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if self.kind == "relu":
            y = self.bn(torch.relu(x))
        elif self.kind == "pad":
            y = self.bn(nn.functional.pad(x, (1, 1, 1, 1)))
        elif self.kind == "twice":
            y = self.bn(self.bn(x))
        else:
            y = self.bn(x) + x
        return self.head(y.mean((2, 3)))


@pytest.mark.parametrize("kind", ("relu", "pad", "twice", "both"))
def test_what_cannot_be_folded_is_told(kind: str) -> None:
    t = proofs.of(toys.seeded(Between(kind)), toys.images(30))
    with pytest.raises(ModelError, match="no batch norm can be folded"):
        FoldNorms().apply(t)
