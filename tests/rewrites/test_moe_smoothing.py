"""Laws of shared smoothing: the same output, one vector for all who read the norm."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from allot.errors import InputError, ModelError
from allot.rewrites.layers import magnitudes
from allot.rewrites.moe_smoothing import SharedSmoothing
from allot.task import Task
from tests import mixture, toys
from tests.mixture import READERS
from tests.rewrites import proofs


def task(norm: nn.Module | None = None, *, also: bool = False) -> Task:
    return mixture.task(mixture.planted(mixture.Mixture(norm, also=also)))


def chosen(t: Task, bits: int) -> Tensor:
    """Which experts the router picks when its input is rounded: [tokens, 2]."""
    found: list[Tensor] = []

    def hook(module: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        x = proofs.rounded(args[0], bits) if bits else args[0]
        found.append(nn.functional.linear(x, module.weight, module.bias).topk(2, 1).indices)  # type: ignore[arg-type]

    handle = t.model.get_submodule("router").register_forward_hook(hook)  # type: ignore[arg-type]
    proofs.output(t)
    handle.remove()
    return torch.cat(found).sort(1).values


@pytest.mark.parametrize("kind", (nn.LayerNorm, nn.RMSNorm))
@pytest.mark.parametrize("strength", (0.0, 0.5, 1.0))
def test_the_output_is_the_same(kind: type[nn.Module], strength: float) -> None:
    proofs.check_rewrite(task(kind(8)), SharedSmoothing(strength=strength))


def test_planted_outliers_cost_less_and_the_router_agrees_more_often() -> None:
    t = task()
    wanted, original = proofs.output(t), chosen(t, 0)
    new = proofs.check_rewrite(t, SharedSmoothing())
    assert proofs.input_error(new, wanted, 6) < proofs.input_error(t, wanted, 6) / 4

    def agreement(of: Task) -> float:
        return float((chosen(of, 4) == original).all(1).double().mean())

    assert agreement(new) > agreement(t)


def test_one_vector_is_the_largest_of_every_readers_own() -> None:
    t = task()
    new = SharedSmoothing(strength=0.5).apply(t)
    seen = magnitudes(t, t.model, READERS)
    wide = torch.stack([
        (seen[n] / t.model.get_submodule(n).weight.abs().amax(0)).sqrt() for n in READERS  # type: ignore
    ]).amax(0)  # fmt: skip
    for name in READERS:
        ratio = new.get_submodule(name).weight / t.model.get_submodule(name).weight  # type: ignore
        assert torch.allclose(ratio, wide.expand_as(ratio), rtol=1e-4)
    assert torch.allclose(t.model.norm.weight / new.norm.weight, wide, rtol=1e-4)  # type: ignore


def test_at_full_strength_all_channels_are_of_one_size() -> None:
    new = SharedSmoothing(strength=1.0).apply(task())
    most = magnitudes(task(), new, ("router",))["router"]
    assert torch.allclose(most, torch.ones(8), rtol=1e-4)


def test_an_expert_that_was_sent_nothing_says_nothing() -> None:
    t = task()
    with torch.no_grad():
        t.model.router.bias[3] = -1e6  # type: ignore[index, union-attr]
        t.model.experts[3].up.weight *= 1e-4  # type: ignore[index, union-attr, operator]
    new = proofs.check_rewrite(t, SharedSmoothing())
    assert float((t.model.norm.weight / new.model.norm.weight).max()) < 100  # type: ignore


def test_bad_input_is_told() -> None:
    with pytest.raises(InputError, match="0 to 1"):
        SharedSmoothing(strength=1.5)
    with pytest.raises(ModelError, match=r"no mixture.*norm: it meets 'add'"):
        SharedSmoothing().apply(task(also=True))
    with pytest.raises(ModelError, match="no mixture"):
        SharedSmoothing(norms=("router",)).apply(task())
    model = toys.seeded(nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 5)))
    t = proofs.of(model, torch.randn(30, 8, generator=torch.Generator().manual_seed(1)))
    with pytest.raises(ModelError, match="a router and numbered experts"):
        SharedSmoothing().apply(t)
    assert SharedSmoothing(norms=("0",)).apply(t) is not t.model
