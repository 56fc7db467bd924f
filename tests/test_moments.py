"""Laws of moments: batches pooled are all samples at once; a correction gives what it was for.

Faults these laws must catch: the spread between batches forgotten; batches of other sizes counted
alike; channels taken along another dim.
"""

from __future__ import annotations

import pytest
import torch

from allot.moments import changed, channel_moments, correction, moments, pooled
from tests import small, toys


@pytest.mark.parametrize("sizes", [(24,), (5, 19), (1, 2, 3, 18), (8, 8, 8)])
@pytest.mark.parametrize("dim", [1, -1])
def test_batches_pooled_are_all_samples(sizes: tuple[int, ...], dim: int) -> None:
    g = torch.Generator().manual_seed(len(sizes))
    x = torch.randn(24, 6, 5, 6, generator=g).double()
    x += torch.arange(24).view(-1, 1, 1, 1)  # batches differ in mean
    parts = [(p.numel(), *channel_moments(p, dim)) for p in x.split(list(sizes))]
    mean, deviation = pooled(parts)
    whole = channel_moments(x, dim)
    assert torch.allclose(mean, whole[0], rtol=1e-12)
    assert torch.allclose(deviation, whole[1], rtol=1e-12)


@pytest.mark.parametrize("make", toys.PLAIN)
def test_moments_do_not_depend_on_the_batch(make: object) -> None:
    k = small.kit(make)  # type: ignore[arg-type]
    whole = moments(k.task, k.bank.skeleton, k.graph, samples=22, batch=100)
    parts = moments(k.task, k.bank.skeleton, k.graph, samples=22, batch=5)
    assert whole.keys() == parts.keys() and whole
    for name, pair in whole.items():
        for a, b in zip(pair, parts[name], strict=True):
            assert torch.allclose(a, b, rtol=1e-5, atol=1e-6), name


@pytest.mark.parametrize("dim", [1, -1])
def test_a_correction_gives_the_goal(dim: int) -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.randn(9, 4, 4, generator=g)
    goal = (torch.arange(4.0).double(), torch.tensor([0.5, 1.0, 2.0, 1.5]).double())
    by = correction(channel_moments(x, dim), goal)
    mean, deviation = channel_moments(changed(x, by, dim), dim)
    assert torch.allclose(mean, goal[0], atol=1e-5)
    assert torch.allclose(deviation, goal[1], atol=1e-5)
