"""Laws of opposing gradients: products in closed form are autograd's, and pairs are as defined.

Faults these laws must catch: the bias forgotten, or counted where there is none; the gradient of
the mean for that of one sample; pairs of small gradients; cosines of norm, not of square.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from allot.opposing import Pass, by_autograd, pairs, passed, products
from allot.task import Data
from tests import small, toys


class Pooled(nn.Module):
    """Its last layer is a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3))


@pytest.mark.parametrize("bias", (True, False))
def test_closed_form_and_autograd_agree(bias: bool) -> None:
    t = small.task()
    head = t.model.get_submodule("head")
    assert isinstance(head, nn.Linear)
    names = ["head.weight", "head.bias"]
    if not bias:
        head.bias, names = None, names[:1]
    seen = passed(t, t.calibrate, batch=7)
    assert seen.last == "head" and seen.inputs is not None
    found = products(t, t.calibrate, seen)
    assert found is not None
    torch.testing.assert_close(
        found, by_autograd(t, t.calibrate, names), rtol=1e-4, atol=1e-4 * float(found.max())
    )


def test_another_last_layer_is_told_by_autograd() -> None:
    t = replace(small.task(), model=toys.seeded(Pooled()))
    seen = passed(t, t.calibrate)
    assert seen.last == "conv" and seen.inputs is None
    found = products(t, t.calibrate, seen)
    assert found is not None
    torch.testing.assert_close(found, by_autograd(t, t.calibrate, ["conv.weight", "conv.bias"]))
    with torch.no_grad():
        torch.testing.assert_close(seen.outputs, t.model(t.calibrate.inputs).double())
    assert seen.rows


@pytest.mark.parametrize(
    "labels", (None, torch.full((24,), 5), torch.zeros(24), torch.zeros(24, 2, dtype=torch.int64))
)
def test_what_is_no_class_has_no_such_gradient(labels: Tensor | None) -> None:
    t = small.task()
    data = Data(inputs=t.calibrate.inputs, labels=labels)
    assert products(t, data, passed(t, data)) is None


def test_a_network_without_parameters_has_none() -> None:
    t = replace(small.task(), model=nn.Flatten())
    assert passed(t, t.calibrate).last == ""
    assert products(t, t.calibrate, passed(t, t.calibrate)) is None
    seen = Pass(outputs=torch.zeros(24, 5), rows=False, last="head", inputs=None)
    assert products(small.task(), t.calibrate, seen) is None


def gradients(n: int = 60, d: int = 20, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("seed", range(5))
def test_planted_pairs_are_found_and_no_others(seed: int) -> None:
    g = gradients(seed=seed)
    assert not len(pairs(g @ g.T))
    g[11] *= 9
    assert not len(pairs(g @ g.T))
    g[31] = -0.8 * g[11] + 0.5 * g[12]
    assert pairs(g @ g.T).tolist() == [[11, 31]]
    assert pairs(4 * g @ g.T).tolist() == [[11, 31]]
    turned = torch.linalg.qr(gradients(20, 20, seed)).Q
    assert pairs(g @ turned @ turned.T @ g.T).tolist() == [[11, 31]]


def test_large_gradients_alike_and_small_ones_opposed_are_no_pairs() -> None:
    g = gradients()
    g[11] *= 9
    g[31] = 0.8 * g[11]
    g[40] = -g[41]
    assert not len(pairs(g @ g.T))
    assert not len(pairs(torch.zeros(5, 5))) and not len(pairs(torch.zeros(0, 0)))


def test_a_pair_holds_both_ways() -> None:
    g = gradients()
    g[5], g[8], g[9] = 9 * g[5], -9 * g[5], -8 * g[5]
    moved = torch.arange(59, -1, -1)
    there = {tuple(sorted((59 - i, 59 - j))) for i, j in pairs(g[moved] @ g[moved].T).tolist()}
    assert there == {(5, 8), (5, 9)} == {tuple(p) for p in pairs(g @ g.T).tolist()}
