"""Laws of minifloats: the numbers of the standards, by other people's tables and by hand.

Faults these laws must catch: a bias one off; subnormals that are left out or scaled like normal
numbers; two zeros; patterns of no number counted, or numbers left out; a split of other widths.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from allot.errors import InputError
from allot.num.minifloat import Minifloat

SPLITS = [(e, bits - 1 - e) for bits in (4, 6, 8) for e in range(1, bits)]
FP8 = {torch.float8_e4m3fn: (4, 3), torch.float8_e5m2: (5, 2)}


def by_hand(exponent: int, mantissa: int, bias: float) -> list[float]:
    """What all patterns stand for, from their bits: ascending."""
    found = set()
    for bits in itertools.product((0, 1), repeat=1 + exponent + mantissa):
        sign, field, rest = bits[0], bits[1 : 1 + exponent], bits[1 + exponent :]
        e = sum(b << i for i, b in enumerate(reversed(field)))
        fraction = sum(b / 2**i for i, b in enumerate(rest, 1))
        value = (1 + fraction) * 2.0 ** (e - bias) if e else fraction * 2.0 ** (1 - bias)
        if (exponent, mantissa) == (4, 3) and all(bits[1:]):
            continue  # NaN
        if (exponent, mantissa) == (5, 2) and all(field):
            continue  # infinities and NaN
        found.add((-1) ** sign * value)
    return sorted(found)


@pytest.mark.parametrize(("exponent", "mantissa"), SPLITS)
def test_the_levels_are_what_the_patterns_stand_for(exponent: int, mantissa: int) -> None:
    grid = Minifloat(exponent=exponent, mantissa=mantissa)
    bias = 2 ** (exponent - 1) - 1
    assert by_hand(exponent, mantissa, bias) == grid.levels().tolist()
    assert 1 + exponent + mantissa == grid.width


@pytest.mark.parametrize("dtype", FP8, ids=str)
def test_eight_bits_are_the_finite_numbers_of_torch(dtype: torch.dtype) -> None:
    exponent, mantissa = FP8[dtype]
    every = torch.arange(256).to(torch.uint8).view(dtype).double()
    expected = every[every.isfinite()].unique()  # +0 and -0 are one
    assert torch.equal(expected, Minifloat(exponent=exponent, mantissa=mantissa).levels())


@pytest.mark.parametrize(
    ("name", "split"),
    [("float4_e2m1fn", (2, 1)), ("float6_e2m3fn", (2, 3)), ("float6_e3m2fn", (3, 2)),
     ("float8_e4m3fn", (4, 3)), ("float8_e5m2", (5, 2))],
)  # fmt: skip
def test_the_standard_formats_are_those_of_ml_dtypes(name: str, split: tuple[int, int]) -> None:
    kinds = pytest.importorskip("ml_dtypes")
    patterns = np.arange(2 ** (1 + sum(split)), dtype=np.uint8)
    every = patterns.view(getattr(kinds, name)).astype(np.float64)
    expected = np.unique(every[np.isfinite(every)])
    grid = Minifloat(exponent=split[0], mantissa=split[1])
    np.testing.assert_array_equal(expected, grid.levels().numpy())


@pytest.mark.parametrize("dtype", FP8, ids=str)
def test_the_nearest_is_the_one_that_torch_converts_to(dtype: torch.dtype) -> None:
    exponent, mantissa = FP8[dtype]
    grid = Minifloat(exponent=exponent, mantissa=mantissa)
    g = torch.Generator().manual_seed(0)
    x = torch.randn(20000, generator=g) * torch.logspace(-7, 2, 20000)
    x = x[x.abs() < grid.reach[1]]
    levels = grid.levels()
    ties = torch.isin(x.double(), (levels[1:] + levels[:-1]) / 2)
    got = grid.values(grid.nearest(x[~ties]))
    assert torch.equal(x[~ties].to(dtype).float(), got) and len(got) > 19000


def test_the_largest_numbers_are_those_of_the_standards() -> None:
    largest = {(2, 1): 6.0, (2, 3): 7.5, (3, 2): 28.0, (4, 3): 448.0, (5, 2): 57344.0}
    for (exponent, mantissa), top in largest.items():
        assert (-top, top) == Minifloat(exponent=exponent, mantissa=mantissa).reach


@pytest.mark.parametrize(("exponent", "mantissa"), SPLITS)
def test_a_real_valued_bias_is_a_scale(exponent: int, mantissa: int) -> None:
    grid, bias = Minifloat(exponent=exponent, mantissa=mantissa), 3.37
    scale = 2.0 ** (2 ** (exponent - 1) - 1 - bias)
    expected = by_hand(exponent, mantissa, bias)
    assert expected == pytest.approx((grid.levels() * scale).tolist(), rel=1e-13, abs=0)


@pytest.mark.parametrize("bits", (4, 6, 8))
def test_one_exponent_bit_is_a_uniform_grid(bits: int) -> None:
    levels = Minifloat(exponent=1, mantissa=bits - 2).levels()
    assert 2 ** (bits - 1) - 1 == levels.argmax() - levels.abs().argmin()
    assert torch.equal(levels.diff(), torch.full_like(levels.diff(), float(levels.diff()[0])))


@pytest.mark.parametrize("split", [(0, 3), (3, 1), (5, 3), (4, -1), (9, -2), (-1, 4)])
def test_other_splits_are_refused(split: tuple[int, int]) -> None:
    with pytest.raises(InputError, match="4, 6 or 8 bits"):
        Minifloat(exponent=split[0], mantissa=split[1])
