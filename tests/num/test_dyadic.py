"""Laws of dyadic factors: the nearest of all b / 2^c, within the stated error, never too wide.

Faults these must catch: a shift one too small or too large; a b that is rounded up to 2^31; a sum
that leaves 64 bits; halves rounded to even or away from zero.
"""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from allot.errors import InputError
from allot.num.dyadic import MOST_SHIFT, SUM_BITS, dyadic, shifted


def reals(n: int = 400, seed: int = 0) -> np.ndarray:
    g = np.random.default_rng(seed)
    return np.exp(g.uniform(-20, 15, n)) * g.choice([-1.0, 1.0], n)


def test_the_error_is_the_stated_one() -> None:
    x = reals()
    d = dyadic(x[None])
    for r, b, c in zip(x, d.factors[0], d.shift, strict=True):
        error = abs(Fraction(int(b), 2 ** int(c)) - Fraction(float(r)))
        assert abs(int(b)) < 2**31 and error <= Fraction(1, 2 ** (int(c) + 1))
        assert error <= Fraction(1, 2**31) * abs(Fraction(float(r)))


@pytest.mark.parametrize("bits", [2, 3, 5])
def test_no_other_pair_is_nearer(bits: int) -> None:
    for r in [*abs(reals(40)).clip(2.0**-20, 2.0**bits - 1), 1.0, 0.75, 2.0**bits - 0.49 - 1]:
        d = dyadic([[r]], bits=bits)
        got = abs(Fraction(int(d.factors[0, 0]), 2 ** int(d.shift[0])) - Fraction(float(r)))
        best = min(
            abs(Fraction(b, 2**c) - Fraction(float(r))) for b in range(2**bits) for c in range(40)
        )
        assert best == got, (r, d)


def test_a_factor_just_below_a_power_of_two_is_not_rounded_out_of_range() -> None:
    for r in (1.0 - 2.0**-40, 1.0, 2.0**31 - 1, 3.0 - 2.0**-45):
        d = dyadic([[r]])
        assert 0 < d.factors[0, 0] < 2**31 and d.shift[0] >= 0
    with pytest.raises(InputError, match="no rescale"):
        dyadic([[2.0**31]])


def test_powers_of_two_are_exact() -> None:
    for k in range(-29, 31):
        d = dyadic([[2.0**k]])
        assert Fraction(int(d.factors[0, 0]), 2 ** int(d.shift[0])) == Fraction(2) ** k


def test_nothing_is_nothing_and_the_tiny_stay_within_the_absolute_error() -> None:
    d = dyadic([[0.0, 1e-30, 2.0**-50]])
    assert (0, 0) == (d.factors[0, 0], d.factors[0, 1]) and set(d.shift) == {MOST_SHIFT}
    assert 2**10 == d.factors[0, 2]


def test_factors_of_one_column_share_a_shift_and_sums_fit() -> None:
    g = np.random.default_rng(1)
    for _ in range(50):
        ratios = np.exp(g.uniform(-12, 3, (3, 4)))
        reach = [int(2 ** g.integers(8, 31)) for _ in range(3)]
        offset = g.normal(size=4) * 1e6
        d = dyadic(ratios, reach=reach, offset=offset)
        for j in range(4):
            whole = sum(abs(int(b)) * r for b, r in zip(d.factors[:, j], reach, strict=True))
            whole += abs(int(d.offset[j]))
            # rounding of factors may add half of each reach
            assert whole < 2**SUM_BITS + sum(reach)
            error = Fraction(1, 2 ** (int(d.shift[j]) + 1))
            for b, r in zip(d.factors[:, j], ratios[:, j], strict=True):
                assert abs(Fraction(int(b), 2 ** int(d.shift[j])) - Fraction(float(r))) <= error
            real = Fraction(float(offset[j]))
            assert abs(Fraction(int(d.offset[j]), 2 ** int(d.shift[j])) - real) <= error


def test_scaling_by_a_power_of_two_moves_the_shift_alone() -> None:
    a, b = dyadic([[0.3, -1.7, 5.1]]), dyadic([[0.3 / 8, -1.7 / 8, 5.1 / 8]])
    assert np.array_equal(a.factors, b.factors) and np.array_equal(a.shift + 3, b.shift)


def test_halves_go_up() -> None:
    sums = np.array([-6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6])
    assert [-1, -1, -1, -1, 0, 0, 0, 0, 1, 1, 1, 1, 2] == shifted(sums, np.array(2)).tolist()
    assert sums.tolist() == shifted(sums, np.array(0)).tolist()


def test_a_shift_is_division_rounded_to_the_nearest() -> None:
    g = np.random.default_rng(2)
    sums = g.integers(-(2**61), 2**61, 500)
    shift = g.integers(0, MOST_SHIFT + 1, 500)
    for n, c, got in zip(sums, shift, shifted(sums, shift), strict=True):
        assert math.floor(Fraction(int(n), 2 ** int(c)) + Fraction(1, 2)) == got


def test_what_is_not_finite_is_refused() -> None:
    for bad in (math.nan, math.inf):
        with pytest.raises(InputError, match="not finite"):
            dyadic([[bad]])
        with pytest.raises(InputError, match="not finite"):
            dyadic([[1.0]], offset=[bad])
