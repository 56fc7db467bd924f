"""Laws of feature errors: per sample, bounded where they say so, 1 for unrelated samples.

Faults these must catch: a sample's error spread over its batch, channels normalized over places,
layers weighted by their size, a bound that is only usual.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from judges import eye, images

from allot.errors import DataError
from allot.judging.feature_error import bounded_errors, feature_errors, fitted
from allot.judging.judge import BATCH


def test_equal_samples_have_no_error_and_only_changed_ones_have_any() -> None:
    x = images(5)
    y = x.clone()
    y[3] = images(5, seed=9)[3]
    found = feature_errors(eye(), x, y)
    assert (found > 0).tolist() == [False, False, False, True, False]


def test_the_error_is_the_mean_over_layers_and_places_of_normalized_differences() -> None:
    j, x, y = eye(), images(1), images(1, seed=9)
    network, total = j.network, 0.0
    for f in (network.conv, lambda z: network.features(network.pool(
        network.conv(z).relu()).flatten(1))):  # fmt: skip
        a, b = (f(z).double().flatten(2) if f(z).dim() > 2 else f(z).double()[:, :, None]
                for z in (x, y))  # fmt: skip
        places = [
            (a[0, :, k] / a[0, :, k].norm() - b[0, :, k] / b[0, :, k].norm()).pow(2).sum()
            for k in range(a.shape[2])
        ]
        total += float(torch.stack(places).mean()) / 4 / 2
    assert feature_errors(j, x, y).item() == pytest.approx(total, rel=1e-5)


def test_it_is_symmetric_and_does_not_depend_on_the_batch() -> None:
    j, n = eye(), BATCH + 2
    x, y = images(n), images(n, seed=5)
    found = feature_errors(j, x, y)
    assert torch.allclose(found, feature_errors(j, y, x))
    alone = torch.cat([feature_errors(j, x[i : i + 1], y[i : i + 1]) for i in (0, n - 1)])
    assert torch.allclose(found[[0, n - 1]], alone, atol=1e-6)


def test_without_a_fit_errors_lie_between_zero_and_one_even_of_opposite_images() -> None:
    x = images(6)
    found = feature_errors(eye(), x, -5 * x)
    assert ((found >= 0) & (found <= 1)).all()
    assert torch.equal(found, bounded_errors(eye(), x, -5 * x))


def test_a_fitted_judge_gives_unrelated_samples_an_error_of_one() -> None:
    x = images(300)
    j = fitted(eye(), x[:150])
    other = x[150:]
    assert float(feature_errors(j, other, other.roll(1, 0)).mean()) == pytest.approx(1, abs=0.1)
    assert float(feature_errors(j, x[:150], x[:150].roll(1, 0)).mean()) == pytest.approx(1)
    assert j.digest == eye().digest


def test_bounded_errors_never_leave_zero_and_one_and_cut_layer_by_layer() -> None:
    x = images(40)
    j = fitted(eye(), x)
    found, cut = feature_errors(j, x, -x), bounded_errors(j, x, -x)
    assert found.max() > 1 >= cut.max() and cut.min() >= 0
    small = replace(j, far=tuple(1e6 for _ in j.far))
    assert torch.equal(feature_errors(small, x, -x), bounded_errors(small, x, -x))
    first = replace(j, far=(1e6, j.far[1]))
    assert bounded_errors(first, x, -x).max() <= 0.5 + 1e-5


def test_sets_of_other_sizes_and_samples_all_alike_are_refused() -> None:
    with pytest.raises(DataError, match="one by one"):
        feature_errors(eye(), images(3), images(2))
    with pytest.raises(DataError, match="at least two"):
        fitted(eye(), images(1))
    with pytest.raises(DataError, match="alike to the judge at conv, features"):
        fitted(eye(), images(1).expand(4, -1, -1, -1))
