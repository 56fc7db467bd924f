"""Laws of thresholds: the share asked for is reached, by no more than needed."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from allot.errors import InputError
from allot.sampling.probes import Probe
from allot.sampling.thresholds import for_share, share_again
from allot.sampling.triggers import Changed
from tests.sampling import nets

GRID = nets.grid(8)


def values(n: int = 30) -> list[torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return list(torch.randn(8, n, 4, generator=g, dtype=torch.float64).cumsum(0))


@pytest.mark.parametrize("summed", (True, False))
@pytest.mark.parametrize("share", (0.1, 0.3, 0.6))
def test_the_share_is_reached_and_hardly_more(summed: bool, share: float) -> None:
    t = Changed(probe=Probe(module="p"), threshold=0.0, summed=summed)
    found = for_share(t, values(), GRID, steps=range(1, 8), share=share)
    reached = share_again(found, values(), GRID, steps=range(1, 8))
    less = replace(found, threshold=found.threshold * (1 - 1e-6))
    assert reached >= share > share_again(less, values(), GRID, steps=range(1, 8))
    assert reached < share + 0.05


def test_steps_that_do_not_decide_compute() -> None:
    t = Changed(probe=Probe(module="p"), threshold=1e9)
    assert share_again(t, values(), GRID, steps=range(2, 6)) == 4 / 8
    assert share_again(t, values(), GRID, steps=range(8)) == 7 / 8  # the first has nothing before


def test_no_share_is_threshold_zero_and_too_much_is_refused() -> None:
    t = Changed(probe=Probe(module="p"), threshold=0.5)
    assert for_share(t, values(), GRID, steps=range(1, 8), share=0.0).threshold == 0
    with pytest.raises(InputError, match="at most 50%"):
        for_share(t, values(), GRID, steps=range(2, 6), share=0.7)
