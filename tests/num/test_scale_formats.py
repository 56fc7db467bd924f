"""Laws of scale formats: what bytes can hold, the rules of the standards, the account by hand.

Faults these laws must catch: an exponent one off; a scale that becomes zero; a rule that does not
return its own result; a shared float taken per row; products that are rounded twice; a sign lost
where there is one; an OCP scale that a power of two of the largest weight pushes one down.
"""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import Tensor

from allot import part
from allot.errors import InputError
from allot.num.formats import Float16, Float32, Format, Grid, Int, Scales
from allot.num.minifloat import Minifloat
from allot.num.scale_formats import Fp8Scales, PowerOfTwo, mx, nvfp4, specified

E2M1 = Minifloat(exponent=2, mantissa=1)
RULES = (1.0, 4 / 3, math.sqrt(2), 2 - 2.0**-19, math.nextafter(2.0, 0.0))
ALL: list[Scales] = [Float32(), Float16(), Fp8Scales(), *(PowerOfTwo(lift=x) for x in RULES)]
# exponents of the largest power of two of an element, from the OCP specification's tables
EMAX = {(2, 1): 2, (2, 3): 2, (3, 2): 4, (4, 3): 8, (5, 2): 15}


def scales(seed: int = 0, spread: float = 3.0) -> Tensor:
    """[40, 5] float32, of very different size."""
    g = torch.Generator().manual_seed(seed)
    return torch.exp(spread * torch.randn(40, 5, generator=g))


def extreme() -> Tensor:
    return torch.tensor([[0.0, 1e-45, 1e-38, 1e-20], [1.0, 1e20, 3e38, 2.0**127]])


@pytest.mark.parametrize("kind", ALL, ids=repr)
@pytest.mark.parametrize("spread", (0.1, 3.0, 12.0))
def test_rounding_twice_is_rounding_once(kind: Scales, spread: float) -> None:
    for s in (scales(0, spread), scales(1, spread) * 1e-9, scales(2, spread)[:1, :1]):
        once = kind.rounded(s)
        assert once.dtype == torch.float32 and once.shape == s.shape and bool((once != 0).all())
        assert torch.equal(once, kind.rounded(once))


@pytest.mark.parametrize("kind", [k for k in ALL if not isinstance(k, Float32)], ids=repr)
def test_nothing_vanishes_or_overflows(kind: Scales) -> None:
    for s in (extreme(), extreme()[:1], extreme()[:1, :1], -extreme()):
        once = kind.rounded(s)
        assert bool((once != 0).all()) and bool(once.isfinite().all())
        assert torch.equal(once, kind.rounded(once))


@pytest.mark.parametrize("kind", ALL, ids=repr)
def test_bytes_hold_scales_bit_for_bit_and_are_as_many_as_counted(kind: Scales) -> None:
    for s in (scales(), scales()[:1, :1], scales()[:, :1] * 1e-6):
        once = kind.rounded(s)
        data = kind.packed(once)
        assert s.numel() * kind.bits // 8 + kind.fixed_bits // 8 == len(data)
        back = kind.unpacked(data, (s.shape[0], s.shape[1]))
        assert torch.equal(once, back) and back.dtype == torch.float32


@pytest.mark.parametrize("kind", ALL, ids=repr)
def test_they_survive_a_file(kind: Scales) -> None:
    assert kind == part.load(json.loads(json.dumps(kind.dump())))


@pytest.mark.parametrize("kind", (Float32(), Float16(), Fp8Scales()), ids=repr)
def test_the_sign_is_kept_where_there_is_one(kind: Scales) -> None:
    s = scales()
    sign = torch.where(torch.arange(s.numel()).view_as(s) % 3 == 0, -1.0, 1.0)
    assert torch.equal(kind.rounded(s) * sign, kind.rounded(s * sign))
    assert torch.equal(-kind.rounded(s), kind.rounded(-s))
    data = kind.packed(kind.rounded(s * sign))
    assert torch.equal(kind.rounded(s) * sign, kind.unpacked(data, (40, 5)))


def test_half_precision_is_the_nearest_there_is() -> None:
    s = scales(spread=1.0)
    assert torch.equal(s.half().float(), Float16().rounded(s))
    ends = Float16().rounded(torch.tensor([[1e-30, 1e30, -1e-30, -1e30]]))
    assert [[2.0**-24, 65504.0, -(2.0**-24), -65504.0]] == ends.tolist()


@pytest.mark.parametrize("lift", RULES)
def test_powers_of_two_lie_within_the_factor_that_the_rule_names(lift: float) -> None:
    s = scales()
    got = PowerOfTwo(lift=lift).rounded(s)
    assert torch.equal(torch.exp2(got.log2().round()), got)
    times = got.double() / s.double()
    assert bool((times <= lift * (1 + 1e-12)).all()) and bool((times > lift / 2 * 0.999999).all())


def test_the_default_covers_what_the_scale_covered() -> None:
    s = scales()
    times = PowerOfTwo().rounded(s).double() / s.double()
    assert bool((times >= 1 - 2.0**-20).all()) and bool((times < 2).all())


def test_a_power_of_two_has_no_sign() -> None:
    assert torch.equal(PowerOfTwo().rounded(scales()), PowerOfTwo().rounded(-scales()))


def test_the_bytes_of_powers_of_two_are_those_of_torch() -> None:
    once = PowerOfTwo().rounded(
        torch.cat((scales(), scales(1, 20.0), extreme()[:, :1].expand(2, 5)))
    )
    data = torch.from_numpy(PowerOfTwo().packed(once)).view(torch.float8_e8m0fnu)
    assert torch.equal(once.flatten(), data.float())


@pytest.mark.parametrize("split", EMAX, ids=str)
def test_the_rule_of_the_specification(split: tuple[int, int]) -> None:
    grid = Minifloat(exponent=split[0], mantissa=split[1])
    exact = torch.exp2(torch.arange(-20.0, 20.0))
    for amax in (scales().flatten(), exact, exact * 1.9999, exact * 1.5):
        expected = torch.exp2(amax.double().log2().floor() - EMAX[split]).float()
        got = specified(grid).rounded((amax / grid.reach[1])[:, None])[:, 0]
        assert torch.equal(expected, got)


@pytest.mark.parametrize("bits", range(3, 9))
def test_rounding_noise_does_not_push_a_power_of_two_one_down(bits: int) -> None:
    grid = Int(bits=bits)
    amax = torch.exp2(torch.arange(-20.0, 20.0))
    got = specified(grid).rounded((amax / grid.hi)[:, None])[:, 0]
    assert torch.equal(amax / 2 ** (bits - 2), got)  # the largest code lies in 2^(bits-2) ..


@pytest.mark.parametrize("lift", (0.99, 2.0, math.nan, -1.0))
def test_lifts_that_would_not_return_their_own_result_are_refused(lift: float) -> None:
    with pytest.raises(InputError, match="1 <= lift < 2"):
        PowerOfTwo(lift=lift)


def test_eight_bit_scales_are_e4m3_numbers_times_one_float() -> None:
    s = scales()
    got = Fp8Scales().rounded(s)
    t = float(s.max()) / 448
    numbers = Minifloat(exponent=4, mantissa=3).levels()
    distance = ((got.double() / t)[..., None] - numbers).abs().amin(-1)
    assert bool((distance <= 2.0**-22 * 448).all())
    # 3 bits of mantissa: half a step of 2^-3, where numbers are normal
    normal = s > t * 2.0**-6
    assert bool(((got / s - 1).abs()[normal] <= 2.0**-4 + 1e-5).all())
    assert float(got.max()) == pytest.approx(float(s.max()), rel=2.0**-22)


def test_the_shared_float_is_that_of_nvfp4() -> None:
    g = torch.Generator().manual_seed(0)
    w = torch.randn(6, 64, generator=g)
    s = w.view(6, 4, 16).abs().amax(2) / 6
    data = Fp8Scales().packed(Fp8Scales().rounded(s))
    t = torch.from_numpy(data[-4:].copy()).view(torch.float32)
    assert float(w.abs().max()) / (448 * 6) == pytest.approx(float(t), rel=2.0**-22)
    expected = (s / t).to(torch.float8_e4m3fn)
    assert torch.equal(expected.view(torch.uint8).flatten(), torch.from_numpy(data[:-4].copy()))


def test_whatever_the_largest_scale_the_shared_float_comes_back() -> None:
    s, g = scales(spread=1.0)[:2], torch.Generator().manual_seed(0)
    for largest in torch.rand(500, generator=g) + 1:
        once = Fp8Scales().rounded(s / s.max() * largest)
        assert torch.equal(once, Fp8Scales().rounded(once))


def test_rows_matter_to_one_another_only_through_the_largest() -> None:
    s = scales()
    most = s.max()
    changed = torch.cat((s, most.expand(1, 5)))
    assert torch.equal(Fp8Scales().rounded(s), Fp8Scales().rounded(changed)[:-1])


@pytest.mark.parametrize(
    ("grid", "bits"), [(E2M1, 4), (Minifloat(exponent=2, mantissa=3), 6),
                       (Minifloat(exponent=4, mantissa=3), 8), (Int(bits=8), 8)],
)  # fmt: skip
def test_microscaling_takes_a_quarter_of_a_bit_on_top(grid: Grid, bits: int) -> None:
    # by hand: 6 x 96 codes and 6 x 3 bytes
    assert 6 * 96 * bits // 8 + 18 == mx(grid).stored_bytes(6, 96)
    assert bits + 0.25 == 8 * mx(grid).stored_bytes(6, 96) / (6 * 96)


def test_nvfp4_takes_half_a_bit_on_top_and_one_float() -> None:
    # by hand: 6 x 96 / 2 bytes of codes, 6 x 6 scales, 4 bytes
    assert 288 + 36 + 4 == nvfp4().stored_bytes(6, 96)
    assert nvfp4() == part.load(json.loads(json.dumps(nvfp4().dump())))
    assert nvfp4().grid.reach == (-6.0, 6.0)


@pytest.mark.parametrize("fmt", (mx(E2M1), nvfp4()), ids=repr)
def test_finer_groups_than_one_scale_per_row_do_not_hurt_rows_of_unlike_size(fmt: Format) -> None:
    w = torch.randn(8, 96, generator=torch.Generator().manual_seed(0))
    w = w * torch.exp2(torch.arange(96.0) // 32 * 6)  # blocks 64 times as large

    def error(of: Format) -> float:
        groups = w.view(8, *of.shape(8, 96)[1:], -1)
        scale = of.scales.rounded(groups.abs().amax(2) / of.grid.reach[1])
        unit = of.spread(scale, 96)
        return float(
            ((of.grid.values(of.grid.nearest(w / unit)) * unit - w) / w.abs()).abs().mean()
        )

    assert error(fmt) < error(Format(grid=fmt.grid))
