"""Laws of smoothing's factors.

Faults these must catch: exponents swapped, a channel without input that becomes NaN, a threshold
not met, zero points forgotten, an error taken of the wrong product.
"""

from __future__ import annotations

import pytest
import torch

from allot.errors import InputError
from allot.num.formats import Format, Int, UInt
from allot.num.smooth import balanced, middle, on_format, output_error, per_token, salient, tamed


def positive(n: int, seed: int = 0) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(n, generator=g).exp()


def test_half_strength_makes_inputs_and_weights_alike() -> None:
    x, w = positive(9), positive(9, seed=1)
    factor = balanced(x, w, 0.5)
    assert torch.allclose(x / factor, w * factor)


@pytest.mark.parametrize("strength", [0.0, 0.3, 1.0])
def test_the_ends_make_one_side_flat(strength: float) -> None:
    x, w = positive(9), positive(9, seed=1)
    factor = balanced(x, w, strength)
    if strength == 1.0:
        assert torch.allclose(x / factor, torch.ones(9))
    if strength == 0.0:
        assert torch.allclose(w * factor, torch.ones(9))
    assert torch.allclose(balanced(x * 4, w, strength), factor * 4**strength)


def test_channels_without_input_or_weight_stay() -> None:
    zero = torch.tensor([0.0, 1.0, 2.0])
    assert balanced(zero, positive(3), 0.5)[0] == 1 and balanced(positive(3), zero, 0.5)[0] == 1
    assert salient(zero, 0.7)[0] == 1 and bool((salient(torch.zeros(3), 0.7) == 1).all())


def test_salient_factors_are_centred_and_grow_with_the_input() -> None:
    x = positive(9)
    factor = salient(x, 0.6)
    assert abs(float(factor.max() * factor.min()) - 1) < 1e-5
    assert torch.equal(factor.argsort(), x.argsort())
    assert torch.allclose(salient(3 * x, 0.6), factor)


def test_a_tamed_channel_meets_its_threshold_and_others_stay() -> None:
    sizes = torch.tensor([0.5, 1.0, 8.0])
    factor = tamed(sizes, 2.0)
    assert factor.tolist() == [1.0, 1.0, 4.0] and float((sizes / factor).max()) == 2.0
    assert middle(torch.tensor([-1.0]), torch.tensor([3.0])).tolist() == [1.0]


FORMATS = (
    Format(grid=Int(bits=4)),
    Format(grid=Int(bits=8), group=4),
    Format(grid=Int(bits=3), group=-1),
    Format(grid=UInt(bits=4), group=4, asymmetric=True),
)


@pytest.mark.parametrize("format", FORMATS)
def test_values_of_a_format_stay_on_it_and_errors_are_half_a_step(format: Format) -> None:
    w = torch.randn(5, 8, generator=torch.Generator().manual_seed(0))
    w[0] = 0
    values = on_format(w, format)
    assert bool((values[0] == 0).all())
    assert torch.allclose(on_format(values, format), values, atol=1e-5)
    step = (w.max() - w.min()) / (2 ** (format.grid.width - 1) - 1)
    assert float((values - w).abs().max()) <= float(step) / 2 * (1 + 1e-5)
    rows = values.flatten() if format.group < 0 else values[1]
    parts = rows.view(-1, 4) if format.group > 0 else rows[None]
    assert all(len(p.unique()) <= 2**format.grid.width for p in parts)


def test_a_token_s_scale_is_its_own() -> None:
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    big = x * torch.logspace(-3, 3, 6)[:, None]
    a, b = per_token(x, Int(bits=4)), per_token(big, Int(bits=4))
    assert torch.allclose(a * torch.logspace(-3, 3, 6)[:, None], b, rtol=1e-5)
    assert bool((per_token(torch.zeros(2, 5), Int(bits=4)) == 0).all())


def test_the_error_is_that_of_the_output() -> None:
    g = torch.Generator().manual_seed(0)
    x, w, factor = torch.randn(7, 8, generator=g), torch.randn(3, 8, generator=g), positive(8)
    for format in FORMATS:
        for grid in (None, Int(bits=6)):
            found = output_error(x, w, factor=factor, weight=format, activation=grid)
            seen = x / factor if grid is None else per_token(x / factor, grid)
            wanted = (x @ w.T - seen @ on_format(w * factor, format).T).square().sum()
            assert abs(found / float(wanted) - 1) < 1e-4
    exact = output_error(
        x, torch.eye(8) * 7, factor=torch.ones(8), weight=FORMATS[0], activation=None
    )
    assert exact < 1e-9


def test_groups_that_do_not_divide_are_refused() -> None:
    with pytest.raises(InputError, match="groups of 3"):
        on_format(torch.ones(2, 8), Format(grid=Int(bits=4), group=3))
