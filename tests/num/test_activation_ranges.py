"""Laws of the rules for ranges of activations.

Faults these laws must catch: a search that loses to the whole range; a percentile of the wrong
tail; a histogram that does not see clipping; a fine stage that makes it worse; units that mix.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from allot.errors import InputError
from allot.num.activation_ranges import (
    ActivationRange,
    KlHistogram,
    MinMax,
    Percentile,
    Seen,
    Shrink,
)
from allot.num.affine import rounded
from allot.num.formats import Grid, Int, UInt
from allot.num.minifloat import Minifloat
from allot.num.scales import tensor_scale
from allot.num.token_wise import TokenWise
from allot.testing import _survives_a_file

GRIDS: tuple[Grid, ...] = (
    UInt(bits=4),
    UInt(bits=8),
    Int(bits=4),
    Minifloat(exponent=2, mantissa=1),
)
RULES: tuple[ActivationRange, ...] = (
    MinMax(), Percentile(), Shrink(), Shrink(power=1.0, least=0.05), KlHistogram(), TokenWise(),
)  # fmt: skip
EACH = tuple(r for r in RULES if not (r.reads_tokens or r.reads_histogram))


def drawn(n: int = 2000, outliers: int = 0, seed: int = 0) -> Tensor:
    x = torch.randn(n, generator=torch.Generator().manual_seed(seed))
    x[:outliers] *= 30
    return x


def seen(x: Tensor, tokens: int = 100) -> Seen:
    """All of a tensor of one unit."""
    top = float(x.abs().max()) or 1.0
    edges = torch.linspace(-top, top, 513, dtype=torch.float64)
    counts = torch.histogram(x.double(), edges).hist
    rows = x.view(tokens, -1)
    return Seen(
        values=x[None],
        low=x.min()[None],
        high=x.max()[None],
        tokens=torch.stack([rows.amin(1), rows.amax(1)], 1),
        rows=rows,
        centres=(edges[1:] + edges[:-1]) / 2,
        counts=counts,
    )


def error(x: Tensor, rule: ActivationRange, grid: Grid, power: float = 2.0) -> float:
    return float((rounded(x, *rule.fit(seen(x), grid), grid) - x).abs().pow(power).double().mean())


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("grid", GRIDS)
def test_scales_are_positive_and_zero_points_are_codes(rule: ActivationRange, grid: Grid) -> None:
    for x in (drawn(), drawn().abs(), -drawn().abs(), drawn(outliers=3), torch.zeros(400)):
        scale, zero = rule.fit(seen(x), grid)
        assert scale.shape == zero.shape == (1,) and scale.dtype == torch.float32
        assert float(scale) > 0 and scale.isfinite().all()
        codes = grid.lo <= float(zero) <= grid.hi and float(zero) == round(float(zero))
        assert codes if isinstance(grid, UInt) else float(zero) == 0


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("constant", (2.5, -0.3, 0.0))
def test_a_constant_is_within_half_a_step(
    rule: ActivationRange, grid: Grid, constant: float
) -> None:
    x = torch.full((400,), constant)
    scale, zero = rule.fit(seen(x), grid)
    step = float(scale) * (2 if isinstance(grid, Minifloat) else 1)  # the last one of E2M1
    off = float((rounded(x, scale, zero, grid) - x).abs().max())
    assert off <= step / 2 * (1 + 1e-5) + abs(constant) / 256  # a bin of the histogram


@pytest.mark.parametrize("rule", RULES)
def test_rules_survive_a_file_and_have_labels_of_their_own(rule: ActivationRange) -> None:
    assert _survives_a_file(rule)
    assert [r.label for r in RULES].count(rule.label) == 1


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("grid", GRIDS)
def test_values_four_times_as_large_have_a_scale_four_times_as_large(
    rule: ActivationRange, grid: Grid
) -> None:
    x = drawn(outliers=2)
    (a, p), (b, q) = rule.fit(seen(x), grid), rule.fit(seen(4 * x), grid)
    assert torch.allclose(4 * a, b) and torch.equal(p, q)


@pytest.mark.parametrize("rule", EACH)
def test_units_are_fitted_each_for_itself(rule: ActivationRange) -> None:
    units = torch.stack([drawn(seed=s) * 3**s for s in range(4)])
    low, high = units.amin(1), units.amax(1)
    both = rule.fit(Seen(values=units, low=low, high=high), UInt(bits=4))
    for i, unit in enumerate(units):
        alone = rule.fit(seen(unit), UInt(bits=4))
        assert torch.equal(both[0][i], alone[0][0]) and torch.equal(both[1][i], alone[1][0])


def test_min_max_covers_all_and_percentiles_less_and_less() -> None:
    x, grid = drawn(outliers=5), UInt(bits=8)
    scales = [float(MinMax().fit(seen(x), grid)[0])]
    scales += [float(Percentile(percent=p).fit(seen(x), grid)[0]) for p in (100, 99.9, 99, 90)]
    assert scales[0] == pytest.approx(float(x.max() - x.min()) / 255)
    assert scales[1] == pytest.approx(scales[0])
    assert scales == sorted(scales, reverse=True) and scales[-1] < 0.1 * scales[0]


@pytest.mark.parametrize("share", (60.0, 95.0, 99.5))
def test_a_percentile_leaves_out_its_share_at_each_end(share: float) -> None:
    x, grid = drawn(), UInt(bits=8)
    scale, zero = Percentile(percent=share).fit(seen(x), grid)
    low, high = -zero * scale, (grid.hi - zero) * scale
    out = (1 - share / 100) * len(x)
    for n in ((x < low).sum(), (x > high).sum()):
        assert abs(float(n) - out) <= 2 + 0.01 * len(x)


@pytest.mark.parametrize("bits", (4, 8))
def test_the_usual_shrink_search_is_that_of_the_plain_option(bits: int) -> None:
    for x in (drawn(outliers=2), drawn().abs(), -drawn().abs()):
        want = tensor_scale(x, float(x.min()), float(x.max()), UInt(bits=bits))
        scale, zero = Shrink().fit(seen(x), UInt(bits=bits))
        assert float(scale) == pytest.approx(want[0], rel=1e-6) and int(zero) == want[1]


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("power", (1.0, 2.0, 4.0))
def test_a_shrink_search_never_loses_to_the_whole_range(grid: Grid, power: float) -> None:
    for outliers in (0, 4):
        x = drawn(outliers=outliers)
        rule = Shrink(power=power, least=0.01)
        assert error(x, rule, grid, power) <= error(x, MinMax(), grid, power) * (1 + 1e-6)


def test_a_larger_power_clips_less() -> None:
    x, grid = drawn(outliers=4), UInt(bits=4)
    scales = [float(Shrink(power=p, least=0.01).fit(seen(x), grid)[0]) for p in (0.5, 1, 2, 4, 8)]
    assert scales == sorted(scales) and scales[0] < scales[-1]


def test_the_histogram_rule_keeps_an_even_range_and_clips_a_lone_outlier() -> None:
    even = torch.linspace(-1, 1, 4000)
    whole = float(MinMax().fit(seen(even), Int(bits=4))[0])
    assert float(KlHistogram().fit(seen(even), Int(bits=4))[0]) > 0.8 * whole
    x = drawn()
    x[0] = 40.0
    for grid in (g for g in GRIDS if g.width == 4):
        assert float(KlHistogram().fit(seen(x), grid)[0]) < 0.5 * float(
            MinMax().fit(seen(x), grid)[0]
        )


@pytest.mark.parametrize(
    "make",
    (
        lambda: Percentile(percent=50),
        lambda: Percentile(percent=101),
        lambda: Shrink(power=0),
        lambda: Shrink(least=0),
        lambda: KlHistogram(least=2),
        lambda: TokenWise(least=-1),
    ),
)
def test_a_rule_that_cannot_be_is_refused(make: object) -> None:
    with pytest.raises(InputError, match="got"):
        make()  # type: ignore[operator]
