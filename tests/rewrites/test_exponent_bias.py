"""Laws of exponent folding: equal bit for bit, channels of one size, four bits gain."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from allot.errors import InputError, ModelError
from allot.rewrites.exponent_bias import ChannelScale, FoldExponentBias, powers
from allot.rewrites.layers import magnitudes
from allot.task import Task
from tests import small, toys
from tests.rewrites import proofs


class Mlp(nn.Module):
    """norm, linear, GELU, linear: one scale goes into the norm, one cannot pass the GELU."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(12)
        self.up, self.down = nn.Linear(12, 16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(nn.functional.gelu(self.up(self.norm(x)))).mean(1)


def mlp() -> Task:
    model = toys.seeded(Mlp())
    with torch.no_grad():
        model.norm.weight.copy_(proofs.spread(12, 2.0))  # type: ignore[operator, union-attr]
        model.up.weight /= proofs.spread(12, 2.0)  # type: ignore[operator, union-attr]
    x = torch.randn(60, 4, 12, generator=torch.Generator().manual_seed(2))
    return proofs.of(model, x)


@pytest.mark.parametrize("make", (toys.chain, toys.residual, toys.dense, toys.separable))
def test_networks_give_the_same_bits(make: Callable[[], nn.Module]) -> None:
    proofs.check_rewrite(small.task(make), FoldExponentBias(reach=7), tolerance=0)


def test_a_mlp_gives_the_same_bits_and_gains_at_four() -> None:
    t = mlp()
    wanted = proofs.output(t)
    new = proofs.check_rewrite(t, FoldExponentBias(reach=7), tolerance=0)
    assert proofs.input_error(new, wanted) < proofs.input_error(t, wanted) / 4
    assert isinstance(new.model.up, nn.Linear)
    assert isinstance(new.model.down, nn.Sequential) and isinstance(new.model.down[0], ChannelScale)


@pytest.mark.parametrize("reach", (1, 3, 12))
def test_channels_come_within_a_factor_of_the_largest(reach: int) -> None:
    t = mlp()
    new = FoldExponentBias(reach=reach).apply(t)
    old, seen = magnitudes(t, t.model, ("up",))["up"], magnitudes(t, new, ("up",))["up"]
    ratio = seen / old
    assert torch.equal(ratio, ratio.log2().round().exp2())
    assert float(ratio.min()) == 1 and float(ratio.max()) == min(2**reach, 2**5)
    near = old >= old.max() / 2**reach
    assert float(seen[near].min()) > float(old.max()) / 2.001
    assert float(seen.max()) == float(old.max())


def test_powers_are_whole_and_clipped() -> None:
    sizes = torch.tensor([8.0, 4.0, 2.1, 0.01, 0.0])
    assert powers(sizes, 3).tolist() == [1, 2, 2, 8, 1]


def test_bad_input_is_told() -> None:
    with pytest.raises(InputError, match="at least 1"):
        FoldExponentBias(reach=0)
    model = toys.seeded(nn.Sequential(nn.Flatten(), nn.Linear(4, 5)))
    x = torch.ones(30, 4) * torch.linspace(0.5, 1, 30)[:, None]
    with pytest.raises(ModelError, match="no exponent can be folded"):
        FoldExponentBias().apply(proofs.of(model, x))
