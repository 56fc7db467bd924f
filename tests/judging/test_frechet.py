"""Laws of the Frechet distance: Gaussians in closed form, invariances, singular covariances.

Faults these must catch: a root of the wrong matrix, a missing factor of 2, a covariance about zero,
n against n - 1, a transport that is not the derivative.
"""

from __future__ import annotations

import pytest
import torch
from judges import cloud, turned

from allot.errors import DataError
from allot.judging.frechet import Moments, distance, moments, reweighted, transport


def gaussian(mean: list[float], variances: list[float]) -> Moments:
    return Moments(
        mean=torch.tensor(mean).double(), covariance=torch.diag(torch.tensor(variances).double())
    )


def between(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(distance(moments(a), moments(b)))


def test_gaussians_with_diagonal_covariances_have_their_closed_form() -> None:
    a, b = gaussian([0, 1], [4, 9]), gaussian([3, 1], [1, 16])
    assert float(distance(a, b)) == pytest.approx(9 + (2 - 1) ** 2 + (3 - 4) ** 2, abs=1e-12)


def test_one_dimension_is_the_difference_of_means_and_deviations() -> None:
    x, y = cloud(200, 1, seed=1), cloud(200, 1, seed=2, scale=3.0, shift=1.0)
    expected = (x.mean() - y.mean()) ** 2 + (x.std() - y.std()) ** 2
    assert between(x, y) == pytest.approx(float(expected), rel=1e-10)


def test_the_general_case_is_the_trace_of_the_matrix_root() -> None:
    a, b = moments(cloud(300, 5, seed=1)), moments(cloud(300, 5, seed=2, shift=0.3))
    roots = torch.linalg.eigvals(a.covariance @ b.covariance).real.sqrt().sum()
    traces = a.covariance.trace() + b.covariance.trace()
    expected = (a.mean - b.mean).pow(2).sum() + traces - 2 * roots
    assert float(distance(a, b)) == pytest.approx(float(expected), rel=1e-10)


@pytest.mark.parametrize("n", [4, 300])
def test_a_set_has_no_distance_to_itself_fewer_samples_than_features_too(n: int) -> None:
    x = 10 * cloud(n, 8)
    assert between(x, x) == pytest.approx(0, abs=1e-10)


def test_features_that_are_dead_change_nothing() -> None:
    x, y = cloud(100, 6, seed=1), cloud(100, 6, seed=2)
    dead = torch.zeros(100, 3).double()
    padded = between(torch.cat([x, dead], 1), torch.cat([y, dead], 1))
    assert padded == pytest.approx(between(x, y), rel=1e-9)


def test_it_is_symmetric_and_the_same_after_one_orthogonal_map_and_shift_of_both() -> None:
    x, y, q = cloud(100, 6, seed=1), cloud(100, 6, seed=2, shift=0.2), turned(6)
    assert between(x, y) == pytest.approx(between(y, x), rel=1e-10)
    assert between(x @ q + 5, y @ q + 5) == pytest.approx(between(x, y), rel=1e-9)


def test_it_grows_with_the_square_of_a_common_scale() -> None:
    x, y = cloud(100, 6, seed=1), cloud(100, 6, seed=2)
    assert between(3 * x, 3 * y) == pytest.approx(9 * between(x, y), rel=1e-10)


def test_two_halves_of_one_population_are_near_and_nearer_with_more_samples() -> None:
    def halves(n: int) -> float:
        x = cloud(2 * n, 8, seed=3)
        return between(x[:n], x[n:])

    spread = float(moments(cloud(2000, 8, seed=3)).covariance.trace())
    assert halves(2000) < 0.01 * spread
    assert halves(2000) < 0.25 * halves(200)


def test_every_sample_drawn_once_gives_the_plain_moments() -> None:
    x = cloud(50, 4) + 100
    ones = reweighted(x, torch.ones(1, 50).double())
    assert torch.allclose(ones.mean[0], moments(x).mean)
    assert torch.allclose(ones.covariance[0], moments(x).covariance, atol=1e-10)


def test_counts_are_how_often_a_sample_stands_in_the_set() -> None:
    x = cloud(6, 3)
    counts = torch.tensor([[2, 0, 1, 3, 0, 0], [1, 1, 1, 1, 2, 0]]).double()
    found = reweighted(x, counts)
    for r, row in enumerate(counts):
        repeated = moments(x.repeat_interleave(row.long(), dim=0))
        assert torch.allclose(found.mean[r], repeated.mean)
        assert torch.allclose(found.covariance[r], repeated.covariance)


def test_the_transport_takes_one_covariance_to_the_other() -> None:
    a, b = moments(cloud(100, 5, seed=1)).covariance, moments(cloud(100, 5, seed=2)).covariance
    there, back = transport(a, b)
    assert torch.allclose(there @ a @ there, b) and torch.allclose(there, there.T)
    assert torch.allclose(there @ back, torch.eye(5).double(), atol=1e-9)


def test_one_less_the_transport_is_the_derivative_of_the_distance() -> None:
    a, b = moments(cloud(100, 4, seed=1)), moments(cloud(100, 4, seed=2))
    there, back = transport(a.covariance, b.covariance)
    eye, change = torch.eye(4).double(), moments(cloud(50, 4, seed=5)).covariance
    for by, which in ((eye - there, 0), (eye - back, 1)):
        moved = [
            float(distance(*[
                Moments(mean=m.mean, covariance=m.covariance + step * change * (i == which))
                for i, m in enumerate((a, b))
            ]))
            for step in (-1e-5, 1e-5)
        ]  # fmt: skip
        expected = (moved[1] - moved[0]) / 2e-5
        assert float((by * change).sum()) == pytest.approx(expected, rel=1e-5, abs=1e-7)


def test_too_few_samples_and_infinite_features_are_refused() -> None:
    with pytest.raises(DataError, match="two samples"):
        moments(cloud(1, 3))
    with pytest.raises(DataError, match="infinity"):
        moments(cloud(5, 3) / 0)
