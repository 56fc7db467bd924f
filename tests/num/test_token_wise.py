"""Laws of token-wise ranges.

Faults these laws must catch: quantiles of the wrong tail; huge tokens that rule; a fine stage
that makes it worse.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from allot.num.activation_ranges import MinMax, Seen
from allot.num.affine import covering, rounded
from allot.num.formats import Grid, UInt
from allot.num.token_wise import TokenWise, token_error
from tests.num.test_activation_ranges import GRIDS, drawn, seen


def test_token_wise_ranges_lie_at_quantiles_of_the_tokens_extremes() -> None:
    """Tokens alike but for two that are huge: these are clipped, and the rest is kept."""
    x = drawn(8000).view(100, 80)
    x[:2] *= 50
    grid = UInt(bits=6)
    scale, zero = TokenWise().fit(seen(x.reshape(-1)), grid)
    high = float((grid.hi - zero) * scale)
    assert high < 0.5 * float(x.max())
    most = Seen(values=x[2:].reshape(1, -1), low=x.min()[None], high=x.max()[None])
    mine = rounded(most.values, scale, zero, grid) - most.values
    whole = rounded(most.values, *MinMax().fit(most, grid), grid) - most.values
    assert float(mine.square().mean()) < 0.2 * float(whole.square().mean())


@pytest.mark.parametrize("grid", GRIDS)
def test_token_wise_ranges_never_lose_to_any_pair_of_opposite_quantiles(grid: Grid) -> None:
    for outliers in (0, 4, 40):
        s = seen(drawn(outliers=outliers))
        assert s.rows is not None and s.tokens is not None

        def error(scale: Tensor, zero: Tensor, s: Seen = s) -> float:
            assert s.rows is not None
            off = (s.rows - rounded(s.rows, scale, zero, grid)).square().sum(1)
            return float((off / s.rows.square().sum(1)).mean())

        got = error(*TokenWise().fit(s, grid))
        for share in torch.linspace(0.5, 1, 64).tolist():
            low, high = s.tokens[:, 0].quantile(1 - share), s.tokens[:, 1].quantile(share)
            assert got <= error(*covering(low[None], high[None], grid)) * (1 + 1e-4)


def test_every_token_counts_alike_and_those_of_zero_nothing() -> None:
    rows = torch.tensor([[100.0, 0.0], [1.0, 0.0], [0.0, 0.0]])
    assert token_error(rows, rows) == 0
    assert token_error(rows, 0.5 * rows) == pytest.approx(2 / 3 * 0.25)
