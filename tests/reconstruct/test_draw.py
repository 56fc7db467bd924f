"""Laws of draws: the share that was asked for, elements apart from each other, by the generator.

Faults these laws must catch: a byte of the number whose top bit is never set; one draw for eight
elements; all or none not being all or none.
"""

from __future__ import annotations

import torch
from torch import Tensor

from allot.reconstruct.draw import drawn


def draw(n: int, share: float, seed: int = 0) -> Tensor:
    return drawn(torch.Size((n,)), share, torch.Generator().manual_seed(seed))


def test_every_place_in_a_number_is_taken_with_the_share_asked_for() -> None:
    n = 80_000
    for share in (0.25, 0.5, 0.9):
        for place in range(8):
            got = float(draw(n, share)[place::8].double().mean())
            assert abs(got - share) < 1 / 512 + 4 * (share * (1 - share) / (n / 8)) ** 0.5


def test_neighbours_are_drawn_apart() -> None:
    x = draw(80_000, 0.5).double() - 0.5
    for apart in range(1, 9):
        assert abs(float((x[:-apart] * x[apart:]).mean())) < 4 * 0.25 / len(x) ** 0.5


def test_all_none_and_shapes() -> None:
    assert bool(draw(1001, 1.0).all()) and not bool(draw(1001, 0.0).any())
    shape = torch.Size((3, 5, 7))
    assert drawn(shape, 0.5, torch.Generator()).shape == shape
    assert torch.equal(draw(99, 0.5), draw(99, 0.5)) and not torch.equal(
        draw(99, 0.5), draw(99, 0.5, seed=1)
    )
