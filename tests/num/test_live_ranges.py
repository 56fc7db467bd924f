"""Laws of ranges at run time.

Faults these laws must catch: units that see each other; a scale of 0; a clip ratio at one end
only; stored scales that are not used.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from allot.errors import InputError
from allot.num.affine import rounded
from allot.num.formats import Float16, Grid, Int, UInt
from allot.num.live_ranges import AtRunTime
from allot.num.minifloat import Minifloat
from allot.num.scale_formats import Fp8Scales, PowerOfTwo
from allot.testing import _survives_a_file

GRIDS: tuple[Grid, ...] = (UInt(bits=4), Int(bits=8), Minifloat(exponent=2, mantissa=1))
RULES = (AtRunTime(), AtRunTime(clip=0.9), AtRunTime(scales=PowerOfTwo()))


def rows(n: int = 6, k: int = 50) -> Tensor:
    return torch.randn(n, k, generator=torch.Generator().manual_seed(0)) + 0.5


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("grid", GRIDS)
def test_a_unit_is_ranged_by_itself_and_its_range_grows_with_it(
    rule: AtRunTime, grid: Grid
) -> None:
    x = rows()
    scale, zero = rule.fit(x, grid, samples=3)
    for i, row in enumerate(x):
        a, b = rule.fit(8.0 * row[None], grid, samples=1)
        assert float(a) == 8.0 * float(scale[i]) and float(b) == float(zero[i])


@pytest.mark.parametrize("grid", GRIDS)
def test_a_clip_ratio_takes_the_same_share_of_either_end(grid: Grid) -> None:
    whole, part = (AtRunTime(clip=c).fit(rows(), grid, samples=6)[0] for c in (1.0, 0.5))
    assert torch.allclose(part, 0.5 * whole)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("constant", (4.2, 0.0, -1e-3))
def test_a_constant_unit_is_exact(grid: Grid, constant: float) -> None:
    x = torch.full((2, 8), constant)
    scale, zero = AtRunTime().fit(x, grid, samples=2)
    assert torch.allclose(rounded(x, scale[:, None], zero[:, None], grid), x, rtol=1e-6)


def test_scales_are_those_that_can_be_stored_and_common_parts_stay_within_a_sample() -> None:
    grid, x = Minifloat(exponent=2, mantissa=1), rows()
    scale, _ = AtRunTime(scales=PowerOfTwo()).fit(x, grid, samples=2)
    assert torch.equal(scale.log2(), scale.log2().round())
    for scales in (Float16(), Fp8Scales()):
        rule = AtRunTime(scales=scales)
        whole, _ = rule.fit(x, grid, samples=2)
        halves = [rule.fit(x[a : a + 3], grid, samples=1)[0] for a in (0, 3)]
        assert torch.equal(whole, torch.cat(halves))


def test_it_survives_a_file_and_a_clip_ratio_is_a_share() -> None:
    assert all(_survives_a_file(r) for r in RULES)
    for clip in (0.0, 1.5):
        with pytest.raises(InputError, match="clip ratio"):
            AtRunTime(clip=clip)
