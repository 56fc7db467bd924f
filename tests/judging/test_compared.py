"""Laws of comparisons: figures are those of their own modules, differences are paired.

Faults these must catch: a sign exchanged, the noises of two plans drawn apart, a figure of the
original in place of the plan's, real data resampled.
"""

from __future__ import annotations

import math

import pytest
import torch
from judges import eye, images

from allot.errors import DataError
from allot.judging import compared, kid
from allot.judging.compared import compare, differences, figures
from allot.judging.coverage import covered, histogram_distance, shares
from allot.judging.feature_error import feature_errors
from allot.judging.fidelity import psnr, squared_error, ssim
from allot.judging.frechet import distance, moments
from allot.judging.judge import read

N = 96


def plans() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The original's samples, those of a good plan and of a bad one."""
    x, off = images(N), images(N, seed=7)
    return x, x + 0.1 * off, 0.7 * x + 0.3 * off


def test_every_figure_is_that_of_its_own_module() -> None:
    x, y, _ = plans()
    j, real = eye(), read(eye(), images(150, seed=3)).features
    a, b = read(j, x), read(j, y)
    found = {k: v.value for k, v in figures(compare(j, x, y), real=real).items()}
    expected = {
        compared.PSNR: psnr(float(squared_error(x, y).mean())),
        compared.SSIM: float(ssim(x, y).mean()),
        compared.ERROR: float(feature_errors(j, x, y).mean()),
        compared.FRECHET: float(distance(moments(a.features), moments(b.features))),
        compared.HISTOGRAM: float(
            histogram_distance(shares(a.logits).mean(0), shares(b.logits).mean(0))
        ),
        compared.COVERAGE: float(covered(a.features, b.features).mean()),
        compared.KID: float(kid.blocks(a.features, b.features).mean()),
        compared.REAL_FRECHET: float(distance(moments(real), moments(b.features))),
        compared.REAL_KID: float(kid.blocks(real[:N], b.features).mean()),
    }
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_a_difference_is_the_second_plan_less_the_first_in_every_figure() -> None:
    x, good, bad = plans()
    j, real = eye(), read(eye(), images(150, seed=3)).features
    a, b = compare(j, x, good), compare(j, x, bad)
    one, two = figures(a, real=real), figures(b, real=real)
    found = differences(a, b, real=real)
    assert set(found) == set(one)
    for name, value in found.items():
        assert value.value == pytest.approx(two[name].value - one[name].value, abs=1e-9), name
        assert value.n == N
    assert found[compared.PSNR].high < 0 < found[compared.FRECHET].low
    assert found[compared.ERROR].low > 0


def test_two_plans_that_are_alike_differ_by_nothing_for_certain() -> None:
    x, good, _ = plans()
    a = compare(eye(), x, good)
    for name, value in differences(a, a).items():
        assert (value.low, value.value, value.high) == (0, 0, 0), name


def test_exchanging_the_plans_turns_the_sign() -> None:
    x, good, bad = plans()
    a, b = compare(eye(), x, good), compare(eye(), x, bad)
    there, back = differences(a, b), differences(b, a)
    for name, value in there.items():
        assert value.low == pytest.approx(-back[name].high, abs=1e-9), name


def test_the_original_itself_is_perfect() -> None:
    x, *_ = plans()
    found = figures(compare(eye(), x, x))
    assert found[compared.PSNR].value == math.inf
    assert found[compared.SSIM].value == pytest.approx(1)
    assert found[compared.COVERAGE].value == 1
    for name in (compared.ERROR, compared.FRECHET, compared.HISTOGRAM, compared.KID):
        assert found[name].value == pytest.approx(0, abs=1e-8), name


def test_a_judge_of_many_features_has_nearly_the_same_intervals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    n, j = 400, eye()
    x, off = images(n), images(n, seed=7)
    a, b = compare(j, x, x + 0.4 * off), compare(j, x, 0.7 * x + 0.3 * off)
    real = read(j, images(300, seed=3)).features

    def both() -> list[compared.Estimate]:
        found = (figures(b, real=real), differences(a, b, real=real))
        return [f[k] for f in found for k in (compared.FRECHET, compared.REAL_FRECHET)]

    resampled = both()
    monkeypatch.setattr(compared, "MANY", 4)
    for one, other in zip(resampled, both(), strict=True):
        assert one.value == pytest.approx(other.value, rel=1e-9)
        assert one.high - one.low == pytest.approx(other.high - other.low, rel=0.25)


def test_what_is_no_image_has_no_structural_similarity() -> None:
    small = images(N, size=8)
    assert compared.SSIM not in figures(compare(eye(), small, 0.9 * small))


def test_no_interval_leaves_what_a_figure_can_be() -> None:
    x, good, _ = plans()
    found = figures(compare(eye(), x, x + 0.01 * (good - x)))
    for name in (compared.COVERAGE, compared.HISTOGRAM):
        assert 0 <= found[name].low <= found[name].high <= 1, name
    assert found[compared.FRECHET].low >= 0 and found[compared.SSIM].high <= 1


def test_other_noises_and_other_judges_are_refused() -> None:
    x, good, _ = plans()
    a = compare(eye(), x, good)
    with pytest.raises(DataError, match="same noises"):
        differences(a, compare(eye(), x.flip(0), good.flip(0)))
    with pytest.raises(DataError, match="one judge"):
        differences(a, compare(eye(1), x, good))
