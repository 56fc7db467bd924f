"""Laws of what the benchmark of searched plans is made of."""

from __future__ import annotations

import numpy as np
import torch

from benchmarks.runtime.searched import share_of
from benchmarks.runtime.trained import cosine


def test_a_plan_loses_as_much_as_itself() -> None:
    x = torch.rand(50, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    np.testing.assert_allclose(share_of(x, x, seed=0), (1.0, 1.0, 1.0))


def test_pairs_narrow_the_interval_of_a_share() -> None:
    g = torch.Generator().manual_seed(0)
    x = torch.rand(200, generator=g, dtype=torch.float64) ** 4
    near = 0.8 * x + 0.01 * torch.rand(200, generator=g, dtype=torch.float64)
    value, low, high = share_of(near, x, seed=0)
    mixed = share_of(near[torch.randperm(200, generator=g)], x, seed=0)
    assert low <= value <= high < 1
    assert high - low < (mixed[2] - mixed[1]) / 3


def test_noise_grows_from_none_to_all() -> None:
    left = cosine(1000)
    assert bool((left[1:] < left[:-1]).all())
    assert left[0] > 0.999
    assert 0 <= left[-1] < 1e-3
